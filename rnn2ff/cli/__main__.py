"""`python -m rnn2ff.cli`."""

from rnn2ff.cli import main

main()
