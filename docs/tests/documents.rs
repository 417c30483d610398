//! The Rust blocks of the documents, as doc tests: they compile, and run where they can.
//!
//! The README's blocks are programs of this package instead, so that they run in folders of their own.

#[cfg(doctest)]
#[doc = include_str!("../lifecycle.md")]
mod lifecycle {}

#[cfg(doctest)]
#[doc = include_str!("../guarantees.md")]
mod guarantees {}

#[cfg(doctest)]
#[doc = include_str!("../databases.md")]
mod databases {}

#[cfg(doctest)]
#[doc = include_str!("../configuration.md")]
mod configuration {}

#[cfg(doctest)]
#[doc = include_str!("../operations.md")]
mod operations {}

#[cfg(doctest)]
#[doc = include_str!("../scaling.md")]
mod scaling {}

#[cfg(doctest)]
#[doc = include_str!("../coming-from-dotnet.md")]
mod coming_from_dotnet {}

#[cfg(doctest)]
#[doc = include_str!("../ARCHITECTURE.md")]
mod architecture {}
