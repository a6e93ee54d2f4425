import base64
import hashlib
import html.parser
import json
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from browser import open_browser
from exported import STIMULI, approximator_of, example, network_of

import rnn2ff
from rnn2ff import (
    TwoLayer,
    certify_predictions,
    make_certifier,
    random_rate_network,
    ring_attractor,
    threshold_linear,
    threshold_linear_rate,
)
from rnn2ff.approximators import predict
from rnn2ff.export import Scene, write_page
from rnn2ff.export.plain import plain_arrays

NETWORK, RATE_NETWORK = network_of(threshold_linear), network_of(threshold_linear_rate)


def scene_of(approximator, network=NETWORK, **options):
    return Scene(
        "A </script><b> scene", "About <!-- <script> </script> it.", network, approximator, STIMULI, 0.05, **options
    )


def scenes():
    """One for each kind of approximator that fits four units, and a ring."""
    ring = ring_attractor(12)
    two_layer = approximator_of(jr.key(4), width=5, rate_size=4, bypass=True)
    stimuli = 1 + 0.1 * jr.normal(jr.key(0), (30, 12))
    ring_two_layer = TwoLayer(12, 20, 12, key=jr.key(5))
    return [
        scene_of(two_layer),
        scene_of(two_layer, RATE_NETWORK),
        scene_of(example("refined")[0]),
        Scene("Ring", "Round.", ring, ring_two_layer, stimuli, None, "ring"),
    ]


def embedded(page):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def unpacked(packed):
    return np.frombuffer(base64.b64decode(packed["base64"]), "<f4").reshape(packed["shape"])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(path, scenes())
    return path


class _Links(html.parser.HTMLParser):
    """Everything in a page that a browser would fetch, and where it leads when somebody clicks."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [(tag, name) for name, _ in attributes if name in ("src", "href", "srcset", "data", "action")]
        self.found += [tag] if tag in ("link", "iframe", "object", "img") else []


def test_the_page_fetches_nothing(page):
    text = page.read_text()
    links = _Links()
    links.feed(text)
    assert links.found == [("a", "href")]
    paper = "https://doi.org/10.1162/neco_a_01042"
    assert f'<a href="{paper}" rel="noreferrer">' in text
    assert f"Made with rnn2ff {rnn2ff.__version__}" in text
    code = text.replace("http://www.w3.org/2000/svg", "").replace(paper, "")  # names, which are not fetched
    for word in ("http:", "https:", "url(", "import(", "fetch(", "XMLHttpRequest", "WebSocket", "@import"):
        assert word not in code


def test_the_page_allows_its_own_script_and_nothing_else_and_no_title_ends_its_data(page):
    text = page.read_text()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'"
    assert not re.search(r"\son\w+=", text.partition("<script>")[0])  # no code in attributes, which it would forbid
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert "<" not in data
    assert embedded(text)[0]["text"] == "About <!-- <script> </script> it."


@pytest.mark.parametrize("index", range(4))
def test_the_numbers_in_the_page_are_those_of_the_network_and_the_approximator(page, index):
    scene, record = scenes()[index], embedded(page.read_text())[index]
    params = scene.network.params
    for name in ("recurrent_weights", "stimulus_weights", "bias", "time_constants"):
        expected = getattr(params, name)
        if expected is None:
            assert record["network"][name] is None
        else:
            np.testing.assert_array_equal(unpacked(record["network"][name]), np.asarray(expected, np.float32))
    model, plain = record["approximator"], plain_arrays(scene.approximator)
    for name in ("hidden_weights", "hidden_bias", "readout_weights", "readout_bias"):
        np.testing.assert_array_equal(unpacked(model[name]), getattr(plain, name))
    assert (model["bypass_weights"] is None) == (plain.bypass_weights is None)
    assert (model["sweeps"] is None) == (plain.sweeps is None)
    if plain.sweeps is not None:
        for name, array in plain.sweeps._asdict().items():
            np.testing.assert_array_equal(unpacked(model["sweeps"][name]), array)
    constants, certifier = record["constants"], make_certifier(scene.network)
    assert constants["monotonicity"] == pytest.approx(float(certifier.monotonicity), rel=1e-5)
    np.testing.assert_allclose(unpacked(constants["metric_root"]), certifier.metric_root, rtol=1e-5)
    np.testing.assert_array_equal(unpacked(record["rows"][1]), np.asarray(scene.stimuli[1], np.float32))
    assert (record["title"], record["text"], record["nrmse"]) == (scene.title, scene.text, scene.nrmse)


@pytest.mark.parametrize(
    ("make_scene", "message"),
    [
        (lambda: scene_of(approximator_of(jr.key(0))), "approximator.*3 channels and 4 rates, got 3 and 2"),
        (
            lambda: scene_of(approximator_of(jr.key(0)), random_rate_network(3, key=jr.key(0))),
            "`network` cannot be exported",
        ),
        (
            lambda: scene_of(example("refined")[0])._replace(stimuli=np.ones((2, 5))),
            r"stimuli.*\(samples, 3\).*\(2, 5\)",
        ),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_a_scene_that_does_not_fit_is_refused_and_nothing_is_written(make_scene, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_page(tmp_path / "index.html", [make_scene()])
    assert list(tmp_path.iterdir()) == []


def test_a_page_without_scenes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`scenes` are missing. Expected at least one, got none"):
        write_page(tmp_path / "index.html", [])


@pytest.fixture(scope="module")
def browser(page):
    with open_browser() as browser:
        browser.call("POST", "/url", {"url": page.as_uri()})
        yield browser
        assert [each["message"] for each in browser.call("POST", "/se/log", {"type": "browser"})] == []


@pytest.mark.tools
class TestBrowser:
    @pytest.mark.parametrize("index", range(4))
    def test_its_answers_and_its_steady_states_are_those_of_jax(self, browser, index):
        scene = scenes()[index]
        stimuli = np.asarray(scene.stimuli[:20], np.float32)
        browser.run(f"open(scenes[{index}])")
        received = browser.run(
            f"return {json.dumps(stimuli.tolist())}.map((u) => Array.from(feedForward(scenes[{index}].model, u)))"
        )
        dtype = scene.network.dtype
        expected = predict(
            jax.tree.map(lambda leaf: leaf.astype(dtype), scene.approximator), jnp.asarray(stimuli, dtype)
        )
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)
        settled = browser.run(
            f"const recurrent = new Recurrent(scenes[{index}].network); const u = {json.dumps(stimuli[0].tolist())};"
            "let k = 0; while (recurrent.advance(u, 1) > 1e-9 && k++ < 300); return Array.from(recurrent.state)"
        )
        velocity = scene.network.velocity(jnp.asarray(settled, dtype), jnp.asarray(stimuli[0], dtype))
        assert jnp.max(jnp.abs(velocity * scene.network.time_constants)) < 1e-5

    @pytest.mark.parametrize("index", range(4))
    def test_its_certificates_are_those_of_python_and_never_below_the_distance_to_rest(self, browser, index):
        scene = scenes()[index]
        stimuli = np.asarray(scene.stimuli[:20], np.float32)
        browser.run(f"open(scenes[{index}])")
        received = browser.run(
            f"const {{ model, constants, network }} = scenes[{index}]; const recurrent = new Recurrent(network);"
            f"return {json.dumps(stimuli.tolist())}.map((u) => {{"
            "recurrent.restart(); let k = 0; while (recurrent.advance(u, 1) > 1e-12 && k++ < 300);"
            "const rest = recurrent.rates();"
            "const answer = feedForward(model, u).map((rate, i) => 0.9 * rest[i] + 0.1 * rate);"
            "const { bound } = certify(constants, recurrent, u, answer);"
            "return [bound, norm(answer.map((rate, i) => rate - rest[i])), Array.from(answer)] })"
        )
        bounds, distances = (np.array([row[i] for row in received], float) for i in (0, 1))
        answers = np.array([row[2] for row in received])
        expected = certify_predictions(scene.network, stimuli, answers)
        is_certified = np.isfinite(bounds)
        assert is_certified.sum() > 5
        assert (bounds >= distances - 1e-7)[is_certified].all()
        np.testing.assert_allclose(bounds[is_certified], np.asarray(expected.error_bound)[is_certified], rtol=5e-2)

    @pytest.mark.parametrize("index", [0, 3])
    def test_a_drag_changes_both_networks_and_the_error_shown_is_their_difference(self, browser, index):
        browser.run(f"open(scenes[{index}])")
        at_rest = "return !page.running"
        browser.wait_for(at_rest)
        shown = "return [Array.from(page.answer), Array.from(page.recurrent.rates()), Array.from(page.stimulus)]"
        before = browser.run(shown)
        box = browser.run(
            "const box = document.getElementById('stimulus').getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]"
        )
        start = (int(box[0] + box[2] * 0.5), int(box[1] + box[3] * 0.8))
        browser.drag([start, (start[0], int(box[1] + box[3] * 0.3)), (start[0] + 30, int(box[1] + box[3] * 0.2))])
        browser.wait_for(at_rest)
        after = browser.run(shown)
        for one, other in zip(before, after):
            assert np.abs(np.subtract(one, other)).max() > 1e-3
        difference = np.abs(np.subtract(after[0], after[1])).max()
        text = browser.run("return document.getElementById('difference').textContent")
        assert abs(float(text) - difference) < 1e-4
        clock = browser.run("return document.getElementById('clock').textContent")
        assert clock.startswith("at rest")
        size = scenes()[index].network.state_size
        assert clock.endswith(f"{browser.run('return page.recurrent.steps - page.from.steps') * size**2:,} products")
        moving = "return document.getElementById('difference').parentElement.classList.contains('moving')"
        assert browser.run(moving) is False
        # The plot stopped when the clock did, with the last change of the stimulus and the way from there in view.
        first, last, changed, now = browser.run(
            "const { samples, changes } = page.history;"
            "return [samples[0].time, samples.at(-1).time, changes.at(-1), page.recurrent.time]"
        )
        assert first < changed < last == now
        bound = browser.run("return certify(page.scene.constants, page.recurrent, page.stimulus, page.answer).bound")
        shown = browser.run("return document.getElementById('bound').textContent")
        assert shown == "none" if bound is None else float(shown.removeprefix("≤")) == pytest.approx(bound, abs=1e-4)
