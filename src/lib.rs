//! stub
#![forbid(unsafe_code)]
mod clock;
mod conflict;
mod entity;
mod error;
mod key;
mod map;
mod precondition;
mod sync;
mod version;
pub use conflict::*;
pub use entity::*;
pub use error::*;
pub use key::*;
pub use precondition::*;
pub use version::*;
