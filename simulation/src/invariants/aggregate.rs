//! The aggregate is a function of the set of accepted updates: not of their order, of repetitions, or
//! of anything that was rejected.

use algorithms::Vectors;

/// `mean` is what the round is closed with, `again` the mean of the accepted updates, folded anew in
/// order of names; `counted` are the participants that are announced, `accepted` those that were told
/// so, both in order of names.
///
/// # Errors
/// If the names differ, or a bit of the means.
pub fn aggregate(
    mean: &Vectors,
    again: &Vectors,
    (counted, accepted): (&[String], &[String]),
) -> Result<(), String> {
    if counted != accepted {
        return Err(format!("counted are {counted:?}, accepted were {accepted:?}"));
    }
    let bits = |vectors: &Vectors| -> Vec<Vec<u32>> {
        vectors.values().map(|vector| vector.iter().map(|value| value.to_bits()).collect()).collect()
    };
    if bits(mean) == bits(again) {
        return Ok(());
    }
    Err(format!("the mean of {counted:?} is {mean:?}, folded anew it is {again:?}"))
}
