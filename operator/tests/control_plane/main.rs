//! The operator against a real API server. What needs a kubelet is tested in `tests/`.

mod admission;
mod chart;
mod compliance;
mod definitions;
mod glass;
mod journals;
mod leading;
mod policy;
mod reconciling;
mod rotation;
mod world;
