"""A trained student as an HTTP server: `dss serve`. Needs `pip install 'dss_jax[serve]'`."""
