"""Streams and data sets: batches that can be made again, and files that outlive a kill."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from rnn2ff import Status, partition_competition, threshold_linear
from rnn2ff.data import open_steady_states, storage, store_steady_states, stream_steady_states
from rnn2ff.data.pairs import Batch, stream_plan
from rnn2ff.networks import network_hash

NETWORK = threshold_linear(np.array([[0.2, -0.3], [0.4, 0.1]]))
SETTINGS = {"num_samples": 22, "shard_size": 4, "description": "Gaussian", "key": jr.key(3)}


def sample(key):
    return jr.normal(key, (2,))


@pytest.fixture(scope="module")
def plan():
    return stream_plan(NETWORK, sample, key=SETTINGS["key"])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    return store_steady_states(folder, NETWORK, sample, **SETTINGS)


_OPENED = []  # the list that paths are added to, while there is one; a hook of Python cannot be taken away
sys.addaudithook(lambda event, arguments: _OPENED[-1].append(arguments[0]) if event == "open" and _OPENED else None)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestStream:
    def test_it_has_no_end_and_can_go_on_at_any_batch(self, plan):
        stream = stream_steady_states(NETWORK, sample, batch_size=4, plan=plan, key=jr.key(3))
        batches = [next(stream) for _ in range(3)]
        again = next(stream_steady_states(NETWORK, sample, batch_size=4, start=2, plan=plan, key=jr.key(3)))
        assert [batch.index for batch in batches] == [0, 1, 2]
        for received, expected in zip(again[1:], batches[2][1:]):
            np.testing.assert_array_equal(received, expected)
        assert not np.array_equal(batches[0].stimuli, batches[1].stimuli)

    def test_many_devices_make_the_batches_of_one(self, plan):
        settings = {"batch_size": 4, "num_batches": 5, "plan": plan, "key": jr.key(3)}
        one = list(stream_steady_states(NETWORK, sample, **settings))
        many = list(stream_steady_states(NETWORK, sample, mesh=jax.make_mesh((2,), ("batch",)), **settings))
        assert [batch.index for batch in many] == list(range(5))
        for received, expected in zip(many, one):
            np.testing.assert_array_equal(received.states, expected.states)

    def test_pairs_are_the_steady_ones_and_all_are_counted(self):
        rows = jnp.arange(6.0).reshape(3, 2)
        status = jnp.array([Status.converged, Status.unstable, Status.converged])
        pairs = Batch(0, rows, 10 * rows, 100 * rows, status).pairs
        np.testing.assert_array_equal(pairs.stimuli, [[0, 1], [4, 5]])
        np.testing.assert_array_equal(pairs.states, [[0, 10], [40, 50]])
        np.testing.assert_array_equal(pairs.rates, [[0, 100], [400, 500]])
        assert (pairs.status_counts["converged"], pairs.status_counts["unstable"]) == (2, 1)


class TestStored:
    def test_what_is_stored_is_the_stream(self, stored, plan):
        stream = stream_steady_states(NETWORK, sample, batch_size=4, num_batches=6, plan=plan, key=jr.key(3))
        pairs = [batch.pairs for batch in stream]
        received = stored.read()
        for name in ("stimuli", "states", "rates"):
            np.testing.assert_array_equal(
                getattr(received, name), np.concatenate([getattr(each, name) for each in pairs])
            )
        assert sum(received.status_counts.values()) == 24
        assert received.status_counts["converged"] == len(stored) == len(received)

    def test_shards_are_read_only_memory_maps(self, stored):
        shard = next(stored.shards())
        assert isinstance(shard["rates"], np.memmap)
        assert not shard["rates"].flags.writeable

    def test_the_manifest_says_what_it_is(self, stored):
        manifest = json.loads((stored.folder / "manifest.json").read_text())
        assert manifest["network_hash"] == network_hash(NETWORK)
        assert manifest["stimuli"] == "Gaussian"
        assert manifest["versions"]["jax"] == jax.__version__
        assert manifest["solver"]["plan"]

    def test_made_again_it_stays_as_it_is(self, stored):
        before = contents(stored.folder)
        store_steady_states(stored.folder, NETWORK, sample, **SETTINGS)
        assert contents(stored.folder) == before

    @pytest.mark.usefixtures("as_a_user")
    def test_another_data_set_is_refused_and_nothing_is_lost(self, stored):
        before = contents(stored.folder)
        with pytest.raises(ValueError, match="another `stimuli`.*Expected normal, got Gaussian"):
            store_steady_states(stored.folder, NETWORK, sample, **{**SETTINGS, "description": "normal"})
        with pytest.raises(ValueError, match="another network"):
            open_steady_states(stored.folder, threshold_linear(np.array([[0.2, -0.3], [0.4, 0.2]])))
        assert contents(stored.folder) == before

    @pytest.mark.usefixtures("as_a_user")
    def test_a_folder_in_use_is_refused(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(ValueError, match="in use"):
            store_steady_states(tmp_path, NETWORK, sample, **SETTINGS)
        with pytest.raises(ValueError, match="holds no data set"):
            open_steady_states(tmp_path, NETWORK)

    @pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "byte", "count"])
    @pytest.mark.usefixtures("as_a_user")
    def test_damage_is_seen(self, stored, tmp_path, damage):
        for name, content in contents(stored.folder).items():
            (tmp_path / name).write_bytes(content)
        shard = tmp_path / "rates-000002.npy"
        if damage == "cut":
            shard.write_bytes(shard.read_bytes()[:-8])
        elif damage == "gone":
            shard.unlink()
        elif damage == "byte":
            content = bytearray(shard.read_bytes())
            content[-1] ^= 1
            shard.write_bytes(content)
        elif damage == "count":
            manifest = json.loads((tmp_path / "manifest.json").read_text())
            manifest["shards"][0]["status_counts"]["unstable"] += 1
            (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        else:
            (tmp_path / "manifest.json").write_text("{")
        with pytest.raises(ValueError, match="damaged"):
            open_steady_states(tmp_path, NETWORK)

    def test_nothing_that_a_manifest_says_leads_out_of_its_folder(self, stored, tmp_path):
        folder, secret = tmp_path / "set", str(tmp_path / "secret.npy")
        shutil.copytree(stored.folder, folder)
        np.save(secret, np.zeros((4, 2)))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest |= {"stimuli": secret, "folder": secret, "path": "../secret.npy", "../secret": secret}
        for shard in manifest["shards"]:
            shard |= {"path": "../secret.npy", "stimuli": secret}
            shard["hashes"] |= {"../secret": "0", secret: "0"}
        storage._write_sealed(folder / "manifest.json", manifest)
        opened = []
        _OPENED.append(opened)
        try:
            again = open_steady_states(folder, NETWORK).read()
        finally:
            _OPENED.clear()
        np.testing.assert_array_equal(again.stimuli, stored.read().stimuli)
        named = {path for path in opened if str(path).startswith(str(tmp_path))}
        assert len(named) > 3
        assert {os.path.dirname(os.path.realpath(path)) for path in named} == {os.path.realpath(folder)}

    def test_a_killed_generation_resumes_and_writes_the_same_bytes(self, stored, tmp_path):
        folder = tmp_path / "set"
        code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import jax, os
jax.config.update("jax_enable_x64", {bool(jax.config.jax_enable_x64)})
from test_storage import NETWORK, SETTINGS, sample
from rnn2ff.data import store_steady_states
replace, calls = os.replace, []
def killed(*paths):
    calls.append(paths)
    if len(calls) == 11:  # in the third shard, with a file written but not yet in place
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
os.replace = killed
store_steady_states({str(folder)!r}, NETWORK, sample, **SETTINGS)
"""
        killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert killed.returncode == -9, killed.stderr
        with pytest.raises(ValueError, match="unfinished.*Expected 6 shards, got 2"):
            open_steady_states(folder, NETWORK)
        assert len(contents(folder)) == 1 + 2 * 4 + 2  # with a whole file and a temporary one of the third
        store_steady_states(folder, NETWORK, sample, **SETTINGS)
        assert contents(folder) == contents(stored.folder)

    def test_one_that_was_killed_once_it_was_whole_is_tidied_by_the_next_call(self, stored, tmp_path, monkeypatch):
        folder, unlink = tmp_path / "set", Path.unlink

        def killed(path, *args, **kwargs):
            if path.name.startswith("counts-000002"):
                raise KeyboardInterrupt
            unlink(path, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                store_steady_states(folder, NETWORK, sample, **SETTINGS)
        assert len(open_steady_states(folder, NETWORK)) == len(stored)
        assert "counts-000002.json" in contents(folder)
        store_steady_states(folder, NETWORK, sample, **SETTINGS)
        assert contents(folder) == contents(stored.folder)

    @pytest.mark.slow
    def test_two_processes_share_one_and_after_one_was_killed_leave_the_same_bytes(self, stored, tmp_path):
        folder = tmp_path / "set"
        code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import jax
process, port, fatal = map(int, sys.argv[1:])
jax.config.update("jax_enable_x64", {bool(jax.config.jax_enable_x64)})
jax.config.update("jax_compilation_cache_dir", {str(tmp_path / "cache")!r})
jax.distributed.initialize(f"127.0.0.1:{{port}}", num_processes=2, process_id=process)
from test_storage import NETWORK, SETTINGS, sample
from rnn2ff.data import store_steady_states
replace, calls = os.replace, []
def killed(*paths):
    calls.append(paths)
    if len(calls) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
os.replace = killed
everywhere = jax.make_mesh((jax.device_count(),), ("all",))
try:
    store_steady_states({str(folder)!r}, NETWORK, sample, mesh=everywhere, **SETTINGS)
except ValueError as error:
    assert "devices of other processes" in str(error)
os.replace = killed
print(len(store_steady_states({str(folder)!r}, NETWORK, sample, **SETTINGS)))
"""

        def start(fatal):
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", 0))
                port = listening.getsockname()[1]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", code]
            return [subprocess.Popen([*command, str(i), str(port), str(fatal * i)], **pipes) for i in (0, 1)]

        first, second = start(fatal=6)  # of the three shards of the second process, one is whole, and one begun
        try:
            assert second.wait(300) == -9, second.stderr.read()
            while not all((folder / f"counts-00000{index}.json").exists() for index in (0, 2, 4)):
                assert first.poll() is None, first.stderr.read()
                time.sleep(0.1)
        finally:
            first.kill()
            first.communicate()
            second.communicate()
        assert sorted(path.name for path in folder.glob("counts-*")) == [f"counts-00000{i}.json" for i in (0, 1, 2, 4)]
        before = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*-00000[0124].*")}
        for process in start(fatal=0):
            shown, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert int(shown) == len(stored)
        assert contents(folder) == contents(stored.folder)
        assert all(path.stat().st_mtime_ns == written for path, written in before.items() if path.exists())

    def test_a_process_does_not_wait_for_ever_for_another(self, tmp_path, monkeypatch):
        monkeypatch.setattr(storage, "_PATIENCE", 0.0)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(RuntimeError, match="Another process has stopped.*the shards of all processes.*to resume"):
            store_steady_states(tmp_path / "set", NETWORK, sample, **SETTINGS)
        monkeypatch.undo()
        assert len(store_steady_states(tmp_path / "set", NETWORK, sample, **SETTINGS)) > 0


def test_networks_have_a_hash_of_their_numbers_and_functions():
    one, same = partition_competition(2, 2), partition_competition(2, 2)
    assert network_hash(one) == network_hash(same)
    assert network_hash(one) != network_hash(partition_competition(2, 2, inhibition=1.6))
    assert network_hash(NETWORK) != network_hash(one)
