//! The federation's own certificate authority: a key, a certificate, and the one way to issue others.

use crate::{
    bundle::{self, BundleError},
    name::{Identity, Role},
    random,
    revocation::Revocations,
    token::Fingerprint,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    SigningKey,
};
use rustls::pki_types::CertificateDer;
use std::{net::IpAddr, path::Path};
use time::OffsetDateTime;

/// The host name in every peer's certificate. Peers move, and find each other by addresses that no
/// certificate could list; what counts is the authority, the role and the name.
pub const PEER_HOST: &str = "peer.starling";

/// Clocks of a fleet differ: a certificate is valid from so long before it was issued.
pub(crate) const SKEW_S: u64 = 300;

/// Why a certificate cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Not a signing request, or not signed by its own key.
    #[error("the signing request is refused: {0}")]
    Request(String),
    /// A host name that cannot stand in a certificate.
    #[error("`{name}` is no host name and no address: {detail}")]
    Host {
        /// What was given.
        name: String,
        /// Why not.
        detail: String,
    },
    /// The library failed.
    #[error("the certificate cannot be made: {0}")]
    Make(String),
    /// The authority's own certificate ends first.
    #[error(
        "the authority's certificate ends at {0} (seconds since 1970), too soon; make a new one with \
         `starling ca init`"
    )]
    Expired(u64),
}

/// When a certificate is valid: seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Issued at.
    pub from: u64,
    /// Ends at.
    pub until: u64,
}

impl Validity {
    /// From now on for so many seconds.
    pub fn lasting(now: u64, seconds: u64) -> Self {
        Self { from: now, until: now.saturating_add(seconds) }
    }
}

/// A certificate authority.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    until: u64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.fingerprint())
    }
}

impl Authority {
    /// A new authority with a key of its own.
    ///
    /// # Errors
    /// If the library fails.
    pub fn create(name: &str, validity: Validity) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(make)?;
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(make)?.der().clone();
        Self::new(certificate, key).map_err(AuthorityError::Make)
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, String> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| error.to_string())?;
        if !parsed.is_ca() {
            return Err("the certificate is not an authority's".into());
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("the key does not belong to the certificate".into());
        }
        let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| error.to_string())?;
        Ok(Self { certificate, issuer, until })
    }

    /// Reads the file that [`Self::save`] wrote.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(file: &Path) -> Result<Self, BundleError> {
        let (key, mut chain) = bundle::read(file)?;
        let wrong = |detail: String| BundleError::Content { file: file.to_owned(), detail };
        if chain.len() != 1 {
            return Err(wrong(format!("{} certificates, an authority has 1", chain.len())));
        }
        let key = KeyPair::from_pem(&key).map_err(|error| wrong(format!("the key: {error}")))?;
        Self::new(chain.remove(0), key).map_err(wrong)
    }

    /// Writes key and certificate into one file that only the owner may read. An existing file is
    /// never replaced.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn save(&self, file: &Path) -> Result<(), BundleError> {
        let text = self.issuer.key().serialize_pem() + &self.certificate_pem();
        bundle::create(file, &text)
    }

    /// The certificate that everybody may know.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The same as text.
    pub fn certificate_pem(&self) -> String {
        bundle::pem_of(&self.certificate)
    }

    /// What a join token carries.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Seconds since 1970 at which the authority ends.
    pub fn until(&self) -> u64 {
        self.until
    }

    /// Signs the key of a request. What else the request says is ignored: role and name are decided
    /// by whoever calls.
    ///
    /// # Errors
    /// If the request is not one, or is not signed by the key that it brings.
    pub fn sign(
        &self,
        request: &[u8],
        role: Role,
        name: &str,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let request = CertificateSigningRequestParams::from_der(&request.into())
            .map_err(|error| AuthorityError::Request(error.to_string()))?;
        self.issue(&request.public_key, role, name, (&[], validity))
    }

    /// The list with one holder more, whose certificates issued up to `until` (seconds since 1970) are refused.
    ///
    /// # Errors
    /// If the library cannot sign.
    pub fn revoke(
        &self,
        list: &Revocations,
        holder: (Role, &str),
        until: u64,
    ) -> Result<Revocations, AuthorityError> {
        let next = list.with(holder, until);
        let signature = self.issuer.key().sign(next.body().as_bytes()).map_err(make)?;
        Ok(next.signed(&signature))
    }

    /// Issues a certificate for a key and, for a server, its hosts.
    pub(crate) fn issue(
        &self,
        key: &impl PublicKeyData,
        role: Role,
        name: &str,
        (hosts, validity): (&[String], Validity),
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        if self.until <= validity.from {
            return Err(AuthorityError::Expired(self.until));
        }
        let until = validity.until.min(self.until);
        let mut params = params(name, Validity { until, ..validity });
        let uri = Identity::uri(role, name).try_into().map_err(make)?;
        params.subject_alt_names.push(SanType::URI(uri));
        if role == Role::Peer {
            params.subject_alt_names.push(host_name(PEER_HOST)?);
        }
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (serves, calls) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        params.extended_key_usages = match role {
            Role::Coordinator => vec![serves],
            Role::Worker | Role::Operator | Role::Observer => vec![calls],
            Role::Peer => vec![serves, calls],
        };
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer).map_err(make)?.der().clone())
    }
}

/// The public key of a signing request, for telling two requests of one key from those of two.
///
/// # Errors
/// As for [`Authority::sign`].
pub fn request_key(request: &[u8]) -> Result<Vec<u8>, AuthorityError> {
    let request = CertificateSigningRequestParams::from_der(&request.into())
        .map_err(|error| AuthorityError::Request(error.to_string()))?;
    Ok(request.public_key.der_bytes().to_vec())
}

#[allow(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn make(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Make(error.to_string())
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong = |detail: String| AuthorityError::Host { name: host.to_owned(), detail };
    rustls::pki_types::DnsName::try_from(host).map_err(|error| wrong(error.to_string()))?;
    host.try_into().map(SanType::DnsName).map_err(|error: rcgen::Error| wrong(error.to_string()))
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let instant = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(rcgen::date_time_ymd(9999, 1, 1))
    };
    let mut serial: [u8; 16] = random();
    // Positive, and of full length: the number that people see is the number in the certificate.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    let mut params = CertificateParams::default();
    params.not_before = instant(validity.from.saturating_sub(SKEW_S));
    params.not_after = instant(validity.until);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = distinguished_name;
    params
}
