//! Accountants over one ledger, a file each.

pub mod contour;
pub mod gaussian;
pub mod pld;
pub mod pure;
pub mod rdp;
pub mod report;
pub mod saddle;
pub mod zcdp;
