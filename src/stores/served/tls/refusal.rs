//! Why an encrypted connection failed, in words that say what to do.

use super::trust::Trust;
use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, OtherError};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What the user can change to trust a server.
#[derive(Clone, Copy, Debug)]
pub enum Remedy {
    /// The option of this name, which isn't given.
    Give(&'static str),
    /// The option of this name, which is given.
    Change(&'static str),
    /// Only the environment: the store has no such option.
    Environment,
}

/// Why an encrypted connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRefusal {
    pub words: String,
    /// Whether a retry can't help, as with an invalid certificate.
    pub lasting: bool,
}

impl TlsRefusal {
    /// `None` if the error is not one of TLS, or not caused by one.
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut error = error;
        loop {
            if let Some(error) = error.downcast_ref::<Error>() {
                return Some(Self::of(error));
            }
            // `source` of an io::Error skips the error that it wraps.
            let hidden = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            error = match hidden {
                Some(hidden) => hidden,
                None => error.source()?,
            };
        }
    }

    fn of(error: &Error) -> Self {
        let words = match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) if cause.is::<Refused>() => {
                cause.to_string()
            }
            Error::InvalidCertificate(error) => words(error, None, Remedy::Give("tls.ca")),
            Error::InvalidMessage(_) => {
                "the server's answer is not encrypted; is this the port for encrypted connections?".into()
            }
            Error::AlertReceived(alert) => alert_words(*alert),
            error => format!("the encrypted connection failed: {error}"),
        };
        Self {
            words,
            lasting: matches!(error, Error::InvalidCertificate(_)),
        }
    }
}

/// The refusal of a certificate, as our verifier returns it.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl StdError for Refused {}

/// Adds words to the refusal of a certificate, as long as it is known what is
/// trusted.
pub fn refused(error: Error, trust: &Trust, remedy: Remedy) -> Error {
    match error {
        Error::InvalidCertificate(error) => {
            let refused = Refused(words(&error, Some(trust), remedy));
            CertificateError::Other(OtherError(Arc::new(refused))).into()
        }
        error => error,
    }
}

fn words(error: &CertificateError, trust: Option<&Trust>, remedy: Remedy) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the server's certificate expired at {}; it is {} on this machine",
            moment(*not_after),
            moment(*time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the server's certificate is not valid before {}; it is {} on this machine",
            moment(*not_before),
            moment(*time)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ");
            let host = expected.to_str();
            if names.is_empty() {
                format!(
                    "the server's certificate has no name of a host (subjectAltName), so it is not valid for {host}"
                )
            } else {
                format!("the server's certificate is not valid for {host}; it is for {names}")
            }
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            untrusted("no trusted certificate has signed the server's", trust, remedy)
        }
        CertificateError::Expired => "the server's certificate ends before it begins".into(),
        error => match webpki_error(error) {
            Some(webpki::Error::CaUsedAsEndEntity) => untrusted(
                "the server's certificate is one of an authority (CA:TRUE), and not a trusted one itself",
                trust,
                remedy,
            ),
            Some(webpki::Error::UnsupportedCertVersion) => untrusted(
                "the server's certificate is older than version 3 of X.509, and not a trusted one itself",
                trust,
                remedy,
            ),
            _ => format!("the server's certificate is invalid: {error}"),
        },
    }
}

/// What our verifier's checks found that `CertificateError` has no variant for.
fn webpki_error(error: &CertificateError) -> Option<&webpki::Error> {
    match error {
        CertificateError::Other(OtherError(cause)) => cause.downcast_ref(),
        _ => None,
    }
}

fn untrusted(why: &str, trust: Option<&Trust>, remedy: Remedy) -> String {
    let trusted = match trust {
        Some(trust) => format!(" (trusted: {})", trust.source),
        None => String::new(),
    };
    let wanted = "the certificate of its authority, or its own if it is self-signed";
    let remedy = match remedy {
        Remedy::Give(option) => format!(
            "pass {wanted}, as {option} or in the file that NODE_EXTRA_CA_CERTS names; tls.rejectUnauthorized: false \
            accepts any server"
        ),
        Remedy::Change(option) => {
            format!("{option} must have {wanted}; tls.rejectUnauthorized: false accepts any server")
        }
        Remedy::Environment => format!("add {wanted}, to the file that NODE_EXTRA_CA_CERTS names"),
    };
    format!("{why}{trusted}; {remedy}")
}

fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the server wants a certificate of the client (tls.cert and tls.key)".into()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => {
            format!("the server refused the client's certificate (tls.cert): {alert:?}")
        }
        alert => format!("the server refused to encrypt: {alert:?}"),
    }
}

fn moment(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let moment = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| format!("{} s", time.as_secs()), |moment| moment.to_string())
}

/// A name of a certificate without its type, which it is preceded by.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use std::time::Duration;

    fn said(error: CertificateError) -> String {
        let wrapped = io::Error::other(Error::InvalidCertificate(error));
        let refusal = TlsRefusal::find(&wrapped).unwrap();
        assert!(refusal.lasting);
        refusal.words
    }

    #[test]
    fn refusals_say_what_was_wrong() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = said(CertificateError::ExpiredContext {
            time: at(86_400),
            not_after: at(0),
        });
        assert!(expired.contains("expired at 1970-01-01T00:00:00Z"), "{expired}");
        assert!(expired.contains("it is 1970-01-02T00:00:00Z"), "{expired}");
        let wrong = |presented: &[&str]| {
            said(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("db.example").unwrap(),
                presented: presented.iter().map(ToString::to_string).collect(),
            })
        };
        let names = wrong(&["DnsName(\"*.other\")", "IpAddress(10.0.0.1)", "plain"]);
        assert!(
            names.ends_with("not valid for db.example; it is for *.other, 10.0.0.1, plain"),
            "{names}"
        );
        assert!(wrong(&[]).contains("no name of a host"));
    }

    #[test]
    fn refusals_name_what_helps() {
        let unknown = said(CertificateError::UnknownIssuer);
        for word in ["tls.ca", "NODE_EXTRA_CA_CERTS", "rejectUnauthorized: false"] {
            assert!(unknown.contains(word), "{unknown}");
        }
        let trust = Trust {
            certificates: Vec::new(),
            source: "only tls.ca".into(),
        };
        let error = refused(CertificateError::UnknownIssuer.into(), &trust, Remedy::Environment);
        let refusal = TlsRefusal::find(&error).unwrap();
        assert!(refusal.lasting);
        assert!(refusal.words.contains("(trusted: only tls.ca)"), "{}", refusal.words);
        assert!(!refusal.words.contains("rejectUnauthorized"), "{}", refusal.words);
    }

    #[test]
    fn other_errors_are_left_alone() {
        assert_eq!(TlsRefusal::find(&io::Error::other("no")), None);
        assert!(!TlsRefusal::find(&Error::DecryptError).unwrap().lasting);
    }
}
