//! Accountants over one ledger, a file each.

pub mod calibrate;
pub mod contour;
pub mod filter;
pub mod gaussian;
pub mod pld;
pub mod pure;
pub mod rdp;
pub mod report;
pub(crate) mod saddle;
pub mod selection;
pub mod zcdp;
