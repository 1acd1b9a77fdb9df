//! A join token: what lets a machine that has no certificate ask for one, once.
//!
//! `starling1.ID.SECRET.FINGERPRINT`: the coordinator keeps the digest of the secret only; the
//! fingerprint of the authority lets the newcomer check whom it talks to before it shows the secret.

use crate::{name::hex, random};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

const PREFIX: &str = "starling1";

/// BLAKE3 of the authority's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate (DER).
    pub fn of(certificate: &[u8]) -> Self {
        Self(*blake3::hash(certificate).as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token: {0}; expected the whole text that `starling token create` printed")]
pub struct TokenError(&'static str);

/// A join token. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: [u8; 8],
    secret: [u8; 16],
    authority: Fingerprint,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id())
    }
}

impl Token {
    /// A new token of an authority.
    pub fn create(authority: Fingerprint) -> Self {
        Self { id: random(), secret: random(), authority }
    }

    /// What names it; no secret.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// The secret, for the coordinator.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// What the coordinator keeps.
    pub fn digest(secret: &[u8]) -> String {
        blake3::hash(secret).to_string()
    }

    /// The authority that it belongs to.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// The text that is given to the newcomer.
    pub fn text(&self) -> String {
        format!("{PREFIX}.{}.{}.{}", hex(&self.id), hex(&self.secret), self.authority)
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [prefix, id, secret, authority] = parts[..] else {
            return Err(TokenError("it does not have four parts"));
        };
        if prefix != PREFIX {
            return Err(TokenError("it does not begin with `starling1.`"));
        }
        let authority = Fingerprint(bytes(authority)?);
        Ok(Self { id: bytes(id)?, secret: bytes(secret)?, authority })
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], TokenError> {
    let wrong = TokenError("a part is damaged or cut off");
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(wrong);
    }
    let mut out = [0; N];
    for (byte, at) in out.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong.clone())?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_survives_its_text_and_hides_its_secret() {
        let token = Token::create(Fingerprint::of(b"authority"));
        assert_eq!(token.text().parse(), Ok(token.clone()));
        assert_eq!(format!(" {}\n", token.text()).parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&hex(token.secret())));
        assert_ne!(token, Token::create(token.authority()));
    }

    #[test]
    fn damage_is_named() {
        let text = Token::create(Fingerprint::of(b"a")).text();
        for (bad, want) in [
            (&text[..text.len() - 1], "cut off"),
            ("", "four parts"),
            (&text.replacen("starling1", "other", 1), "starling1"),
        ] {
            let error = bad.parse::<Token>().unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("token create"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "\\PC*", a in "[0-9a-fé.+-]{0,90}") {
            let _ = text.parse::<Token>();
            let _ = format!("starling1.{a}").parse::<Token>();
        }
    }
}
