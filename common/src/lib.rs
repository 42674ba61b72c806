//! The only vocabulary that the kernel side and the user side share.
#![cfg_attr(not(feature = "std"), no_std)]
pub mod lock;
pub mod site;
pub mod summary;
pub mod wire;
