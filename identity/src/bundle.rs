//! One file that holds an identity: private key, certificate, and the authority's certificate, in PEM.
//! One file, because a key and a certificate in two could be replaced one without the other.

use crate::{
    authority::{Authority, AuthorityError, Validity},
    name::{Identity, Role},
    random,
    token::Fingerprint,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a file of keys and certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file system.
    #[error("{}: {detail}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What failed.
        detail: String,
    },
    /// What the file holds.
    #[error("{}: {detail}; expected a key and certificates as `starling` writes them", file.display())]
    Content {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Others may read the private key.
    #[error("{}: others may read this private key (mode {mode:o}); run `chmod 600` on it", file.display())]
    Readable {
        /// Which.
        file: PathBuf,
        /// Permission bits.
        mode: u32,
    },
}

/// A key, its certificate and the authority's.
pub struct Bundle {
    key: String,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    identity: Identity,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({})", self.identity)
    }
}

impl Bundle {
    /// Key and certificate made at once, where the authority lies: for the coordinator itself and for
    /// the first operator.
    ///
    /// # Errors
    /// If the authority cannot issue it.
    pub fn issue(
        authority: &Authority,
        role: Role,
        name: &str,
        (hosts, validity): (&[String], Validity),
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(|error| AuthorityError::Make(error.to_string()))?;
        let certificate = authority.issue(&key, role, name, (hosts, validity))?;
        Self::new(key.serialize_pem(), certificate, authority.certificate().clone())
            .map_err(AuthorityError::Make)
    }

    fn new(
        key: String,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, String> {
        let identity = Identity::of(&certificate)?;
        let bundle = Self { key, certificate, authority, identity };
        bundle.certified()?;
        Ok(bundle)
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(file: &Path) -> Result<Option<Self>, BundleError> {
        if !file.exists() {
            return Ok(None);
        }
        let (key, chain) = read(file)?;
        let wrong = |detail: String| BundleError::Content { file: file.to_owned(), detail };
        let [certificate, authority] = <[_; 2]>::try_from(chain)
            .map_err(|chain: Vec<_>| wrong(format!("{} certificates, an identity has 2", chain.len())))?;
        Self::new(key, certificate, authority).map(Some).map_err(wrong)
    }

    /// Writes the file, replacing an older one in one step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, file: &Path) -> Result<(), BundleError> {
        let text = [&self.key, &*pem_of(&self.certificate), &*pem_of(&self.authority)].concat();
        replace(file, &text)
    }

    /// Who this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The authority that vouches for it, and for its peers.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// For rustls: the certificate with the authority's behind it, so that a newcomer who knows only
    /// the fingerprint can check the chain.
    ///
    /// # Errors
    /// If the key does not belong to the certificate.
    pub fn certified(&self) -> Result<Arc<CertifiedKey>, String> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| error.to_string())?;
        let signer = ring::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
        let certified = CertifiedKey::new(vec![self.certificate.clone(), self.authority.clone()], signer);
        certified.keys_match().map_err(|_| "the key does not belong to the certificate".to_owned())?;
        Ok(Arc::new(certified))
    }
}

/// A key that waits for its certificate. Kept in a file beside the identity, so that a worker that dies
/// between asking and receiving asks again with the same key.
pub struct SigningRequest {
    key: KeyPair,
    file: PathBuf,
}

impl std::fmt::Debug for SigningRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningRequest({})", self.file.display())
    }
}

impl SigningRequest {
    /// For the identity that will be in `file`: the key of an unfinished request, or a new one.
    ///
    /// # Errors
    /// If the key cannot be read or written.
    pub fn open(file: &Path) -> Result<Self, BundleError> {
        let pending = file.with_extension("pending");
        let wrong = |error: rcgen::Error| BundleError::Content {
            file: pending.clone(),
            detail: format!("the key: {error}"),
        };
        let key = if pending.exists() {
            let text = fs::read_to_string(&pending).map_err(|error| file_error(&pending, &error))?;
            KeyPair::from_pem(&text).map_err(wrong)?
        } else {
            let key = KeyPair::generate().map_err(wrong)?;
            replace(&pending, &key.serialize_pem())?;
            key
        };
        Ok(Self { key, file: file.to_owned() })
    }

    /// The request (PKCS #10, DER) with the key's own signature.
    ///
    /// # Errors
    /// If the library fails.
    pub fn der(&self) -> Result<Vec<u8>, String> {
        let request = CertificateParams::default().serialize_request(&self.key);
        Ok(request.map_err(|error| error.to_string())?.der().to_vec())
    }

    /// Puts the answer beside its key, durably, and forgets the request. `trusted` is what the token,
    /// or the present identity, says of the authority.
    ///
    /// # Errors
    /// If the answer is not for this key or from another authority, or the file cannot be written.
    pub fn complete(
        self,
        certificate: Vec<u8>,
        authority: Vec<u8>,
        trusted: Fingerprint,
    ) -> Result<Bundle, BundleError> {
        let wrong = |detail: String| BundleError::Content { file: self.file.clone(), detail };
        let authority = CertificateDer::from(authority);
        let got = Fingerprint::of(&authority);
        if got != trusted {
            return Err(wrong(format!("the answer is from authority {got}, expected {trusted}")));
        }
        let bundle = Bundle::new(self.key.serialize_pem(), certificate.into(), authority).map_err(wrong)?;
        bundle.save(&self.file)?;
        let pending = self.file.with_extension("pending");
        fs::remove_file(&pending).map_err(|error| file_error(&pending, &error))?;
        Ok(bundle)
    }
}

fn file_error(file: &Path, error: &std::io::Error) -> BundleError {
    BundleError::File { file: file.to_owned(), detail: error.to_string() }
}

/// A certificate as text.
pub(crate) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The private key (PEM) and the certificates of a file.
pub(crate) fn read(file: &Path) -> Result<(String, Vec<CertificateDer<'static>>), BundleError> {
    let wrong = |detail: String| BundleError::Content { file: file.to_owned(), detail };
    let text = fs::read_to_string(file).map_err(|error| file_error(file, &error))?;
    let mode = fs::metadata(file).map_err(|error| file_error(file, &error))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(BundleError::Readable { file: file.to_owned(), mode });
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.map_err(|error| wrong(error.to_string()))?;
    let end = concat!("-----END PRIVATE", " KEY-----\n");
    let key = text.find(end).map(|at| text[..at + end.len()].to_owned());
    Ok((key.ok_or_else(|| wrong("no private key".into()))?, chain))
}

/// Writes a new file that only the owner may read.
pub(crate) fn create(file: &Path, text: &str) -> Result<(), BundleError> {
    let write = || -> std::io::Result<()> {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()
    };
    write().map_err(|error| file_error(file, &error))
}

/// Writes a file that only the owner may read, in the place of an older one.
fn replace(file: &Path, text: &str) -> Result<(), BundleError> {
    let [a, b]: [u8; 2] = random();
    let partial = file.with_extension(format!("{a:02x}{b:02x}.partial"));
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).map_err(|error| file_error(dir, &error))?;
    }
    create(&partial, text)?;
    let rename = || -> std::io::Result<()> {
        fs::rename(&partial, file)?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(dir)?.sync_all()
    };
    rename().map_err(|error| file_error(file, &error))
}
