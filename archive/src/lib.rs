//! What happens to a record: [`journal`] keeps it on disk, [`drain`] carries it to an [`endpoint`], [`verify`], [`search`], [`count`]
//! and [`export`] read it back there. [`record`] is what all of them carry, [`head`] what a journal signs, [`anchors`] are heads that
//! were kept elsewhere.

pub mod anchors;
pub mod count;
pub mod drain;
pub mod endpoint;
pub mod export;
mod file_name;
pub mod head;
pub mod journal;
mod pages;
pub mod record;
pub mod search;
pub mod verify;
