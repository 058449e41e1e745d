//! What happens to a record: [`journal`] keeps it on disk, [`drain`] carries it to an [`endpoint`], [`verify`] and [`search`]
//! read it back there. [`record`] is what all of them carry, [`head`] what a journal signs.

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
