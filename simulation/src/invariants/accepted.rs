//! What is accepted can be folded: an update that must be rejected never gets as far as the aggregate.

use crate::Vice;

/// An update of `worker` is about to be folded; `harmful`: why it must not be.
///
/// # Errors
/// If it must be rejected, or a value is not finite.
pub fn accepted(worker: &str, harmful: Option<Vice>, values: &[f32]) -> Result<(), String> {
    if let Some(vice) = harmful {
        return Err(format!("an update of {worker} was accepted, which does {vice:?}"));
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(format!("an update of {worker} was accepted, whose value {at} is {}", values[at])),
        None => Ok(()),
    }
}
