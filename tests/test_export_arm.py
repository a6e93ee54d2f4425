"""The C headers on a microcontroller: compiled for a Cortex-M3, and run under an emulator."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from exported import STIMULI, example, relative_error

from rnn2ff.export import footprint, quantize, to_c

pytestmark = pytest.mark.tools

FLAGS = ("-mcpu=cortex-m3", "-mthumb", "-Os", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
# The Stellaris board of the emulator: flash at 0, memory at 0x20000000. Its first two words are the stack's top and
# where to begin. Text leaves through semihosting.
LINKER = """
ENTRY(begin)
SECTIONS {
  .text 0 : { KEEP(*(.vectors)) *(.text*) *(.rodata*) }
  .bss 0x20000000 : { *(.data*) *(.bss*) *(COMMON) }
  /DISCARD/ : { *(.ARM.*) *(.comment) }
}
"""
BOARD = """
#include "net.h"
static void say(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
static void say_bytes(const void *data, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        unsigned char byte = ((const unsigned char *)data)[i];
        char text[3] = {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15], 0};
        say(4, text);
    }
}
static const TYPE stimuli[][NET_STIMULUS_SIZE] = STIMULI;
void begin(void)
{
    for (unsigned i = 0; i < sizeof stimuli / sizeof stimuli[0]; i++) {
        TYPE rates[NET_RATE_SIZE];
        net_predict(stimuli[i], rates);
        say_bytes(rates, sizeof rates);
    }
    say(0x18, (const void *)0x20026);
    for (;;) {
    }
}
__attribute__((section(".vectors"), used)) static const void *vectors[2] = {(void *)0x20010000, (void *)begin};
"""


def run_on_board(header, kind, stimuli, folder):
    """What the rates are on the emulated board, as bytes; and how many bytes of code and constants there are."""
    rows = ", ".join("{" + ", ".join(repr(each) for each in row) + "}" for row in stimuli.tolist())
    board = BOARD.replace("TYPE", kind).replace("STIMULI;", f"{{{rows}}};")
    for name, text in {"net.h": header, "board.c": board, "board.ld": LINKER}.items():
        (folder / name).write_text(text)
    pedantic = [flag for flag in FLAGS if flag != "-pedantic"]  # the board's own code is not plain C99
    link = ["-nostdlib", "-ffreestanding", "-T", "board.ld", "board.c", "-lgcc", "-o", "board.elf"]
    subprocess.run(["arm-none-eabi-gcc", *pedantic, *link], cwd=folder, check=True)
    emulator = ["qemu-system-arm", "-M", "lm3s6965evb", "-nographic", "-monitor", "none", "-serial", "none"]
    options = ["-semihosting-config", "enable=on,target=native", "-kernel", "board.elf"]
    done = subprocess.run([*emulator, *options], cwd=folder, capture_output=True, timeout=60, check=False)
    sizes = subprocess.run(["arm-none-eabi-size", "board.elf"], cwd=folder, capture_output=True, text=True, check=True)
    (said,) = re.findall(rb"[0-9a-f]{8,}", done.stdout + done.stderr)  # the emulator has remarks of its own
    return bytes.fromhex(said.decode()), int(sizes.stdout.split("\n")[1].split()[0])


def test_the_tools_are_there():
    """A missing tool is a failure, and not a skipped test."""
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        assert shutil.which(tool), f"install {tool}"


@pytest.mark.parametrize("name", ["bypass", "refined"])
def test_the_whole_numbers_of_a_cortex_m3_are_those_of_the_integer_model(name, tmp_path):
    model = quantize(example(name)[0], STIMULI[:500])
    stimuli = model.quantize_stimuli(STIMULI[:100])
    received, size = run_on_board(to_c(model, name="net"), "int16_t", stimuli, tmp_path)
    np.testing.assert_array_equal(np.frombuffer(received, "<i2").reshape(100, -1), model(stimuli))
    code = size - footprint(model).flash_bytes - stimuli.nbytes
    assert 0 < code < 4096


@pytest.mark.parametrize("name", ["bypass", "refined"])
def test_the_floats_of_a_cortex_m3_are_those_of_jax(name, tmp_path):
    approximator, expected = example(name)
    received, _ = run_on_board(to_c(approximator, name="net"), "float", STIMULI[:100], tmp_path)
    assert relative_error(np.frombuffer(received, "<f4").reshape(100, -1), expected[:100]) < 1e-6


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_a_header_compiles_for_a_cortex_m3_with_strict_warnings(kind, tmp_path):
    approximator, _ = example("refined")
    header = to_c(approximator if kind == "float" else quantize(approximator, STIMULI), name="net")
    (tmp_path / "net.h").write_text(header)
    (tmp_path / "main.c").write_text('#include "net.h"\nvoid (*used)() = (void (*)())net_predict;\n')
    subprocess.run(["arm-none-eabi-gcc", *FLAGS, "-c", "main.c"], cwd=tmp_path, check=True)
