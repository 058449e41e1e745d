//! Laws of the chain.
