//! One-dimensional searches on functions that are known to be monotone or to have one minimum.

/// The point in `[low, high]` where `below` changes from true to false, by `steps` halvings. Returns
/// the last interval: `below` holds at its left end or that end is `low`, and fails at its right end
/// or that end is `high`.
pub(crate) fn bisect(mut low: f64, mut high: f64, steps: u32, below: impl Fn(f64) -> bool) -> (f64, f64) {
    for _ in 0..steps {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low, high)
}

/// The argument and value of the least value of a function with one minimum on `[low, high]`, by
/// golden sections until the interval is `tolerance` wide.
pub(crate) fn minimise(mut low: f64, mut high: f64, tolerance: f64, f: impl Fn(f64) -> f64) -> (f64, f64) {
    const SECTION: f64 = 0.618_033_988_749_894_9;
    let (mut a, mut b) = (high - SECTION * (high - low), low + SECTION * (high - low));
    let (mut fa, mut fb) = (f(a), f(b));
    while high - low > tolerance && a < b {
        if fa <= fb {
            (high, b, fb) = (b, a, fa);
            a = high - SECTION * (high - low);
            fa = f(a);
        } else {
            (low, a, fa) = (a, b, fb);
            b = low + SECTION * (high - low);
            fb = f(b);
        }
    }
    if fa <= fb { (a, fa) } else { (b, fb) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_the_minimum_are_found() {
        let (low, high) = bisect(0.0, 4.0, 200, |x| x * x < 2.0);
        assert!(low < high && (low - 2.0_f64.sqrt()).abs() < 1e-15 && (high - low) < 1e-15);
        let (at, least) = minimise(-3.0, 9.0, 1e-7, |x| (x - 1.5).powi(2) + 2.0);
        assert!((at - 1.5).abs() < 1e-6 && (least - 2.0).abs() < 1e-12);
    }
}
