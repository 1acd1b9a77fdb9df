//! What follows the `?`: numbers only, so that nothing needs to be decoded.

use axum::http::Uri;

/// The value of `key`; `None` if it is not there, or no number.
pub fn number(uri: &Uri, key: &str) -> Option<u64> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).find_map(|(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_read() {
        let of = |uri: &str| number(&uri.parse().unwrap(), "page");
        assert_eq!(of("/?page=3"), Some(3));
        assert_eq!(of("/x?from=1&page=18446744073709551615"), Some(u64::MAX));
        for uri in
            ["/", "/?page", "/?page=", "/?page=-1", "/?page=x", "/?pages=3", "/?page=99999999999999999999"]
        {
            assert_eq!(of(uri), None, "{uri}");
        }
    }
}
