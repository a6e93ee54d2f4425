"""Networks of the literature, with the parameters of their papers."""
