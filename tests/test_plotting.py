import subprocess
import sys

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from rnn2ff import plotting
from rnn2ff.plotting import (
    COLORS,
    new_figure,
    plot_in_principal_components,
    plot_learning,
    plot_phase_plane,
    plot_rates,
    plot_tails,
    plot_trajectory,
    save_figure,
)

SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-", ".svg": b"<?xml"}


def rates():
    target = np.maximum(np.random.default_rng(0).normal(size=(50, 4)), 0)
    return target, target + 0.1


def draw():
    target, predicted = rates()
    figure, (left, right) = new_figure(2, height=2.8)
    plot_rates(left, target, predicted, nrmse=0.1234)
    plot_learning(right, {"steps": [0, 100, 200], "validation_errors": [1.0, 0.25, 0.04]}, variance=4.0)
    return figure, left, right


def settings():
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}  # found when asked


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_a_figure_is_a_file_of_its_format_and_the_same_figure_gives_the_same_bytes(suffix, tmp_path):
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    for path in (first, second):
        save_figure(draw()[0], path)
    assert first.read_bytes().startswith(SIGNATURES[suffix])
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_picture_has_the_stated_size_and_shows_the_curve(tmp_path):
    save_figure(draw()[0], tmp_path / "figure.png")
    picture = matplotlib.image.imread(tmp_path / "figure.png")
    assert picture.shape[:2] == (round(2.8 * 300), round(plotting.PAGE_WIDTH * 300))
    color = matplotlib.colors.to_rgb(COLORS["feed-forward"])
    is_line = np.abs(picture[:, :, :3] - color).max(axis=2) < 0.02
    assert is_line[:, is_line.shape[1] // 2 :].sum() > 100


def test_the_dots_are_the_rates_and_the_title_is_their_error():
    target, predicted = rates()
    _, left, _ = draw()
    (dots,) = left.collections
    np.testing.assert_array_equal(dots.get_offsets(), np.stack([target.ravel(), predicted.ravel()], axis=1))
    assert left.get_title() == "error 12.3 % (NRMSE)"


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (-3.0, 1.0), (5.0, 1.0), (0.0, 0.0)])
def test_every_dot_and_the_origin_are_inside_the_axes(shift, scale):
    target, predicted = (scale * each + shift for each in rates())
    _, (axes,) = new_figure()
    plot_rates(axes, target, predicted, nrmse=0.1)
    shown = np.concatenate([target.ravel(), predicted.ravel(), [0.0]])
    for low, top in (axes.get_xlim(), axes.get_ylim()):
        assert low < shown.min()
        assert shown.max() < top


def test_tails_are_the_shares_of_errors_above_each_size():
    _, (axes,) = new_figure()
    plot_tails(axes, {"units": [0.3, 0.1, np.nan, 0.2, 0.4]})
    line = axes.lines[0]
    assert line.get_label() == "units (n = 4)"
    assert line.get_xdata() == pytest.approx([10, 20, 30, 40])
    assert line.get_ydata() == pytest.approx([100, 75, 50, 25])


def test_the_units_that_change_most_have_a_color_each_and_the_others_are_gray():
    _, (axes,) = new_figure()
    plot_trajectory(axes, [0.0, 1.0], np.outer([0.0, 1.0], np.arange(10.0)))
    colors = [line.get_color() for line in axes.lines]
    assert colors[:2] == ["#cccccc"] * 2
    assert len(set(colors)) == 9


def test_the_course_of_training_is_in_percent_of_the_standard_deviation():
    (line,) = draw()[2].lines
    np.testing.assert_allclose(line.get_xydata(), [[0, 50], [100, 25], [200, 10]])


@pytest.mark.parametrize("num_columns", [1, 3])
def test_a_figure_has_the_given_number_of_columns(num_columns):
    figure, axes = new_figure(num_columns, width=3.5, width_ratios=[2.0] + [1.0] * (num_columns - 1))
    assert len(axes) == num_columns
    assert figure.get_figwidth() == 3.5
    figure.draw_without_rendering()
    widths = [each.get_position().width for each in axes]
    assert all(width < 0.7 * widths[0] for width in widths[1:])


def test_the_house_style_holds_inside_and_matplotlib_is_as_it_was_afterwards(tmp_path):
    with matplotlib.rc_context({"font.size": 31.0, "axes.spines.top": True}):
        before = settings()
        figure, left, _ = draw()
        save_figure(figure, tmp_path / "figure.png")
        assert settings() == before
    assert left.title.get_size() == 8
    assert not left.spines["top"].get_visible()


def test_a_user_s_own_settings_come_back_after_an_error():
    with matplotlib.rc_context({"font.size": 31.0}):
        before = settings()
        _, (axes,) = new_figure()
        with pytest.raises(KeyError):
            plot_learning(axes, {"steps": [0]}, variance=1.0)
        assert settings() == before


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "figure.nonsense"
    path.write_text("old")
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(new_figure()[0], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", [new_figure, lambda: save_figure(None, "figure.png")])
def test_without_matplotlib_the_error_names_the_extra(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib.*pip install 'rnn2ff\[plot\]'"):
        call()


def test_drawing_needs_no_jax_and_importing_needs_no_matplotlib(tmp_path):
    code = (
        "import sys, rnn2ff.plotting as plotting\n"
        "print('matplotlib' in sys.modules, 'jax' in sys.modules)\n"
        f"plotting.save_figure(plotting.new_figure()[0], {str(tmp_path / 'figure.png')!r})\n"
        "print('matplotlib' in sys.modules, 'jax' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "False"]
    assert (tmp_path / "figure.png").stat().st_size > 0


class TestFixedPoints:
    grid = np.linspace(-1.0, 1.0, 41)
    # x' = x - x^3, y' = -y: fixed points at x = -1, 0, 1.
    velocities = np.stack(np.broadcast_arrays((grid - grid**3)[None, :], -grid[:, None]), axis=-1)
    states = np.array([[-0.9, 0.0], [0.0, 0.0], [0.9, 0.0]])

    def test_the_nullclines_are_where_the_velocity_vanishes_and_the_dots_where_the_fixed_points_are(self):
        _, (axes,) = new_figure()
        path = np.stack([np.linspace(0.1, 0.9, 5), np.zeros(5)], axis=1)
        plot_phase_plane(
            axes,
            self.grid,
            self.grid,
            self.velocities,
            states=self.states,
            is_stable=[True, False, True],
            trajectories=[path],
        )
        quiver, first, second, stable, unstable = axes.collections
        for vertices in first.get_paths()[0].to_polygons(closed_only=False):
            assert np.abs(vertices[:, 0] - vertices[:, 0] ** 3).max() < 1e-3
        (line,) = second.get_paths()[0].to_polygons(closed_only=False)
        assert np.abs(line[:, 1]).max() < 1e-9
        np.testing.assert_array_equal(stable.get_offsets(), self.states[[0, 2]])
        np.testing.assert_array_equal(unstable.get_offsets(), self.states[[1]])
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), path)
        # Arrows of one length on paper, in the direction of the flow.
        sizes = np.hypot(quiver.U, quiver.V)
        assert (np.abs(sizes[sizes > 0] - 1) < 1e-9).all()
        at = quiver.XY
        flow = (at[:, 0] - at[:, 0] ** 3) * quiver.U + -at[:, 1] * quiver.V
        assert (flow >= 0).all()

    def test_principal_components_keep_the_distances_of_points_in_a_plane(self):
        generator = np.random.default_rng(0)
        basis = np.linalg.qr(generator.normal(size=(9, 9)))[0][:2]
        plane = generator.normal(size=(6, 2))
        _, (axes,) = new_figure()
        plot_in_principal_components(axes, plane @ basis + 3, [True] * 6, trajectories=[plane[::-1] @ basis + 3])
        (dots,) = axes.collections
        points = np.asarray(dots.get_offsets())
        np.testing.assert_allclose(
            np.linalg.norm(points[:, None] - points, axis=-1), np.linalg.norm(plane[:, None] - plane, axis=-1)
        )
        shares = [float(axis.get_text().split("(")[1].split(" ")[0]) for axis in (axes.xaxis.label, axes.yaxis.label)]
        assert sum(shares) == pytest.approx(100, abs=1.1)
        assert shares[0] >= shares[1]

    def test_a_single_fixed_point_can_be_drawn(self, tmp_path):
        figure, (axes,) = new_figure()
        plot_in_principal_components(axes, np.ones((1, 5)), [False])
        save_figure(figure, tmp_path / "one.png")
        np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0, 0]])
