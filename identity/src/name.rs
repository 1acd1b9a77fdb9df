//! What a certificate says about its holder: a role and a name, as a URI of its own in the subject's
//! alternative names, where no other certificate of the same authority could be mistaken for it.

use crate::authority::SKEW_S;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a holder may do; closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Trains.
    Worker,
    /// Steers runs and the fleet.
    Operator,
    /// Looks, and changes nothing.
    Observer,
    /// Serves.
    Coordinator,
    /// Trains with other peers, without a coordinator: serves and calls.
    Peer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Worker, Self::Operator, Self::Observer, Self::Coordinator, Self::Peer];

    /// The name, as people type it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Observer => "observer",
            Self::Coordinator => "coordinator",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::label).join(", ");
        Self::ALL
            .into_iter()
            .find(|role| role.label() == text)
            .ok_or_else(|| format!("`{text}` is no role; expected one of {}", known()))
    }
}

/// A certificate's serial number, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Serial(pub String);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The holder of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What it may do.
    pub role: Role,
    /// Who it is: unique among live certificates of its role.
    pub name: String,
    /// Which certificate.
    pub serial: Serial,
    /// Seconds since 1970 at which the certificate was issued.
    pub issued: u64,
    /// Seconds since 1970 at which it ends.
    pub not_after: u64,
}

const SCHEME: &str = "starling:";

impl Identity {
    /// The URI of a role and a name.
    pub(crate) fn uri(role: Role, name: &str) -> String {
        format!("{SCHEME}{role}/{name}")
    }

    /// Reads a certificate, whose signature is somebody else's business (rustls checks it).
    ///
    /// # Errors
    /// If it is no certificate, or none of this system's.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        let uri = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
                _ => None,
            })
            .ok_or("the certificate names no role")?;
        let (role, name) = uri.split_once('/').ok_or_else(|| format!("`{uri}` names no role"))?;
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        Ok(Self {
            role: role.parse()?,
            name: name.to_owned(),
            serial: Serial(hex(parsed.raw_serial())),
            issued: seconds(parsed.validity().not_before) + SKEW_S,
            not_after: seconds(parsed.validity().not_after),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.role, self.name)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
