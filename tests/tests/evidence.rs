//! P4 as far as streams alone can show it: whatever a database superuser changes in, takes from or adds to the middle of an
//! archive, `verify` names it.

use anyhow::{Result, ensure};
use cartulary_tests::oracle::verify;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::{DATABASE, World};

