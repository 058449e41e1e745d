//! Paused-clock tests.
