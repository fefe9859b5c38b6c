//! What a PostgreSQL URL says, together with the environment: where the servers
//! are, how to log in, and defaults of some options.

use super::environment::Environment;
use super::parameters::Parameters;
use super::password_file::PasswordFile;
use super::server::{Host, Server};
use super::session::Session;
use super::tls::Tls;
use crate::kv::{Error, Result};
use crate::stores::MOST_CONNECTIONS;
use crate::stores::served::TlsOptions;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode};

/// Socket directories of PostgreSQL's usual builds. The password file has their
/// passwords under `localhost`.
#[cfg(unix)]
const USUAL_DIRECTORIES: &[&str] = &["/run/postgresql", "/tmp", "/var/run/postgresql"];

/// The longest name of a schema, in bytes.
const LONGEST_NAME: usize = 63;

/// The longest time that a parameter may give, in seconds.
const LONGEST_SECONDS: i32 = 2_147_483;

/// How long sent data may stay without an acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The content of a URL.
pub struct Target {
    pub servers: Vec<Server>,
    /// Whether to try the servers, and the addresses of each, in random order.
    pub random: bool,
    pub session: Session,
    /// The longest time for one address.
    pub address_timeout: Option<Duration>,
    pub tls: Tls,
    pub hints: Hints,
    /// For messages, without the password.
    pub place: String,
    /// How to set up sockets, and to log in at any server.
    pub config: Config,
    password_file: Option<PathBuf>,
}

/// What a URL says about options of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub schema: Option<String>,
    pub prepared_statements: Option<bool>,
    pub max_connections: Option<usize>,
    pub connect_timeout: Option<Duration>,
}

impl Hints {
    /// The table's name, as the option `tableName` has it.
    pub fn table(&self, name: String) -> String {
        match &self.schema {
            Some(schema) if !name.contains('.') => format!("{schema}.{name}"),
            _ => name,
        }
    }
}

impl Target {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for an invalid URL or variable. The message never
    /// shows a value, which may be a password.
    pub fn parse(url: &str, environment: &Environment, tls: Option<TlsOptions>) -> Result<Self> {
        let mut parameters = Parameters::parse(url)?;
        parameters.fill(environment);
        let servers = Server::all(&parameters)?;
        let choice = |name, choices: &[(&str, bool)]| {
            let given = parameters.get(name);
            given.map_or(Ok(false), |given| given.one_of(choices))
        };
        choice("gssencmode", &[("disable", false), ("prefer", false)])?;
        let random = choice("load_balance_hosts", &[("disable", false), ("random", true)])?;
        let session = match parameters.get("target_session_attrs") {
            Some(given) => given.one_of(Session::NAMES)?,
            None => Session::Any,
        };
        let address_timeout = seconds(&parameters, "connect_timeout")?;
        let mut hints = hints(&parameters)?;
        hints.connect_timeout = address_timeout.map(|limit| {
            let count = u32::try_from(servers.len()).unwrap_or(u32::MAX);
            limit.saturating_mul(count)
        });
        let tls = Tls::new(&parameters, tls)?;
        let named = parameters.text("passfile").map(PathBuf::from);
        Ok(Self {
            random,
            session,
            address_timeout,
            hints,
            place: servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            servers,
            config: config(&parameters, &tls)?,
            tls,
            password_file: named.or_else(|| environment.password_file()),
        })
    }

    /// With what the store's options say: a user in place of the URL's, and whether
    /// there is a password, which is then not looked up.
    pub fn with(mut self, user: Option<&str>, has_password: bool) -> Self {
        if let Some(user) = user {
            self.config.user(user);
        }
        if has_password {
            self.password_file = None;
        }
        self
    }

    /// How to log in. Reads the password file, if it is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if neither the URL nor the system names a user.
    pub fn login(&self) -> Result<Login> {
        let mut config = self.config.clone();
        if config.get_user().is_none() {
            let user = whoami::username().map_err(|error| {
                Error::Connection(format!("the URL names no user, and the system neither: {error}"))
            })?;
            config.user(user);
        }
        let path = self.password_file.as_ref().filter(|_| config.get_password().is_none());
        Ok(Login {
            config,
            passwords: path.map(|path| PasswordFile::read(path)).unwrap_or_default(),
        })
    }
}

/// How to log in at each server.
pub struct Login {
    config: Config,
    passwords: PasswordFile,
}

impl Login {
    /// Logs in with this password, wherever.
    pub fn set_password(&mut self, password: &str) {
        self.config.password(password);
    }

    pub fn at(&self, server: &Server) -> Config {
        let mut config = self.config.clone();
        let host = match &server.host {
            Host::Named(host) => host,
            #[cfg(unix)]
            Host::Directory(directory) => {
                // As for PostgreSQL's own clients, nobody can listen to a socket.
                config.ssl_mode(SslMode::Disable);
                let directory = directory.to_str().unwrap_or_default();
                if USUAL_DIRECTORIES.contains(&directory.trim_end_matches('/')) {
                    "localhost"
                } else {
                    directory
                }
            }
        };
        if config.get_password().is_none() {
            let user = config.get_user().unwrap_or_default();
            let database = config.get_dbname().unwrap_or(user);
            let password = self
                .passwords
                .password([host, &server.port.to_string(), database, user]);
            if let Some(password) = password {
                config.password(password);
            }
        }
        config
    }

    /// Why there may be no password.
    pub fn missing(&self, config: &Config) -> Option<&str> {
        self.passwords
            .ignored
            .as_deref()
            .filter(|_| config.get_password().is_none())
    }
}

fn config(parameters: &Parameters, tls: &Tls) -> Result<Config> {
    let mut config = Config::new();
    config.ssl_mode(tls.mode()).ssl_negotiation(tls.negotiation());
    if let Some(user) = parameters.text("user") {
        config.user(user);
    }
    if let Some(password) = parameters.text("password") {
        config.password(password);
    }
    if let Some(database) = parameters.text("dbname") {
        config.dbname(database);
    }
    if let Some(options) = parameters.text("options") {
        config.options(options);
    }
    let name = parameters.text("application_name");
    let name = name.or_else(|| parameters.text("fallback_application_name"));
    config.application_name(name.unwrap_or("fedify-kv"));
    if let Some(given) = parameters.get("channel_binding") {
        config.channel_binding(given.one_of(&[
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ])?);
    }
    if let Some(given) = parameters.get("keepalives") {
        config.keepalives(given.one_of(&[("0", false), ("1", true)])?);
    }
    // To notice while idle that a server has vanished.
    config.keepalives_idle(seconds(parameters, "keepalives_idle")?.unwrap_or(Duration::from_secs(60)));
    if let Some(interval) = seconds(parameters, "keepalives_interval")? {
        config.keepalives_interval(interval);
    }
    if let Some(count) = number(parameters, "keepalives_count", 127)? {
        config.keepalives_retries(count);
    }
    if parameters.get("tcp_user_timeout").is_none() {
        config.tcp_user_timeout(USER_TIMEOUT);
    }
    if let Some(millis) = number(parameters, "tcp_user_timeout", i32::MAX)? {
        config.tcp_user_timeout(Duration::from_millis(millis.into()));
    }
    Ok(config)
}

fn hints(parameters: &Parameters) -> Result<Hints> {
    let schema = match parameters.get("schema") {
        Some(given) => {
            let name = given.text();
            if !(1..=LONGEST_NAME).contains(&name.len()) || name.contains('.') {
                return Err(given.must_be(format_args!("a name of 1 to {LONGEST_NAME} bytes without a dot")));
            }
            Some(name.to_owned())
        }
        None => None,
    };
    let pgbouncer = match parameters.get("pgbouncer") {
        Some(given) => given.one_of(&[("true", true), ("false", false)])?,
        None => false,
    };
    let max_connections = match parameters.get("connection_limit") {
        Some(given) => Some(given.whole(1..=MOST_CONNECTIONS)? as usize),
        None => None,
    };
    // Accepted, but without effect.
    number(parameters, "pool_timeout", LONGEST_SECONDS)?;
    Ok(Hints {
        schema,
        prepared_statements: pgbouncer.then_some(false),
        max_connections,
        connect_timeout: None,
    })
}

/// A number; `None` if it is missing, or if it is 0 or -1, which stand for the
/// default.
fn number(parameters: &Parameters, name: &'static str, most: i32) -> Result<Option<u32>> {
    match parameters.get(name) {
        Some(given) => {
            let number = given.whole(-1..=most)?;
            Ok(u32::try_from(number).ok().filter(|number| *number > 0))
        }
        None => Ok(None),
    }
}

fn seconds(parameters: &Parameters, name: &'static str) -> Result<Option<Duration>> {
    let seconds = number(parameters, name, LONGEST_SECONDS)?;
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, environment: &Environment) -> Result<Target> {
        Target::parse(url, environment, None)
    }

    fn target(url: &str) -> Target {
        parse(url, &Environment::default()).unwrap()
    }

    #[test]
    fn urls_say_where_and_how() {
        let target = target("postgres://user:p%40ss@[::1]:7/app?sslmode=require&application_name=x&options=-c%20a%3Db");
        assert_eq!(target.place, "[::1]:7");
        let config = &target.config;
        assert_eq!(config.get_user(), Some("user"));
        assert_eq!(config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(config.get_dbname(), Some("app"));
        assert_eq!(config.get_application_name(), Some("x"));
        assert_eq!(config.get_options(), Some("-c a=b"));
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
        assert!(!target.random && target.session == Session::Any && target.address_timeout.is_none());
        assert_eq!(target.hints, Hints::default());
    }

    #[test]
    fn parameters_of_hosters_are_known() {
        let all = target(
            "postgresql://a,b:1/x?target_session_attrs=primary&load_balance_hosts=random&connect_timeout=3\
            &keepalives=0&tcp_user_timeout=1500&keepalives_count=2&keepalives_interval=5&gssencmode=disable\
            &channel_binding=prefer&fallback_application_name=y&schema=app&pgbouncer=true&connection_limit=7\
            &pool_timeout=10",
        );
        assert_eq!(all.place, "a:5432, b:1");
        assert!(all.random && all.session == Session::Primary);
        assert_eq!(all.address_timeout, Some(Duration::from_secs(3)));
        assert_eq!(all.config.get_application_name(), Some("y"));
        assert_eq!(all.config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
        assert!(!all.config.get_keepalives());
        let hints = Hints {
            schema: Some("app".into()),
            prepared_statements: Some(false),
            max_connections: Some(7),
            // For each host.
            connect_timeout: Some(Duration::from_secs(6)),
        };
        assert_eq!(all.hints, hints);
        for unlimited in ["0", "-1"] {
            let target = target(&format!("postgres://h?connect_timeout={unlimited}"));
            assert_eq!((target.address_timeout, target.hints.connect_timeout), (None, None));
        }
    }

    #[test]
    fn wrong_values_are_refused_without_being_shown() {
        for bad in [
            "connect_timeout=secret",
            "connect_timeout=-2",
            "connection_limit=0",
            "connection_limit=secret",
            "connection_limit=1001",
            "pool_timeout=secret",
            "pgbouncer=secret",
            "schema=",
            "schema=sec.ret",
            "channel_binding=secret",
            "target_session_attrs=secret",
            "load_balance_hosts=secret",
            "gssencmode=require",
            "keepalives=secret",
            "keepalives_count=secret",
        ] {
            let error = parse(&format!("postgres://user:secret@host?{bad}"), &Environment::default());
            let error = error.map(drop).unwrap_err().to_string();
            let name = bad.split('=').next().unwrap();
            assert!(
                error.contains(&format!("the PostgreSQL URL is invalid: {name} must be")),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
        let environment = [("PGCONNECT_TIMEOUT", "secret")].into();
        let error = parse("postgres://", &environment).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("the environment variable PGCONNECT_TIMEOUT must be"),
            "{error}"
        );
    }

    #[test]
    fn the_environment_fills_what_is_left_out() {
        let environment = [
            ("PGHOST", "db.example"),
            ("PGPORT", "7"),
            ("PGUSER", "user"),
            ("PGPASSWORD", "p"),
            ("PGDATABASE", "app"),
            ("PGAPPNAME", "x"),
            ("PGOPTIONS", "-c a=b"),
            ("PGCONNECT_TIMEOUT", "2"),
            ("PGTARGETSESSIONATTRS", "read-write"),
            ("PGLOADBALANCEHOSTS", "random"),
        ]
        .into();
        let target = parse("postgres://", &environment).unwrap();
        assert_eq!(target.place, "db.example:7");
        let config = target.login().unwrap().at(&target.servers[0]);
        assert_eq!(config.get_user(), Some("user"));
        assert_eq!(config.get_password(), Some(&b"p"[..]));
        assert_eq!(config.get_dbname(), Some("app"));
        assert_eq!(config.get_application_name(), Some("x"));
        assert_eq!(config.get_options(), Some("-c a=b"));
        assert_eq!(target.address_timeout, Some(Duration::from_secs(2)));
        assert_eq!(target.session, Session::ReadWrite);
        assert!(target.random);
    }

    #[test]
    fn the_user_of_the_system_is_the_default() {
        let target = target("postgres://host");
        let config = target.login().unwrap().at(&target.servers[0]);
        assert_eq!(config.get_user(), Some(&*whoami::username().unwrap()));
    }

    #[cfg(unix)]
    #[test]
    fn each_server_has_its_own_password() {
        use std::fs::{Permissions, remove_file, set_permissions, write};
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("fedify-kv-passwords-{}", std::process::id()));
        let lines = "a:5432:app:user:of a\nb:7:app:user:of b\nlocalhost:5432:*:user:local\n/run/own:*:*:*:own\n";
        write(&path, lines).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let environment: Environment = [("PGPASSFILE", path.to_str().unwrap())].into();
        let passwords = |url| -> Vec<_> {
            let target = parse(url, &environment).unwrap();
            let login = target.login().unwrap();
            let password = |server| {
                login
                    .at(server)
                    .get_password()
                    .map(|password| String::from_utf8_lossy(password).into_owned())
            };
            target.servers.iter().map(password).collect()
        };
        let found = |password: &str| Some(password.to_owned());
        assert_eq!(
            passwords("postgres://user@a,b:7,b/app"),
            [found("of a"), found("of b"), None]
        );
        assert_eq!(passwords("postgres://user@a/other"), [None]);
        // The database has the user's name.
        assert_eq!(passwords("postgres://user@localhost"), [found("local")]);
        assert_eq!(
            passwords("postgres://user@%2Fvar%2Frun%2Fpostgresql/app"),
            [found("local")]
        );
        assert_eq!(passwords("postgres://user@%2Frun%2Fown/app"), [found("own")]);
        // The file is not asked for the URL's own password.
        assert_eq!(passwords("postgres://user:url@a/app"), [found("url")]);
        set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let target = parse("postgres://user@a/app", &environment).unwrap();
        let login = target.login().unwrap();
        let missing = login.missing(&login.at(&target.servers[0])).unwrap();
        assert!(missing.contains("0600"), "{missing}");
        remove_file(path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn sockets_are_never_encrypted() {
        let target = target("postgres://a,%2Frun/app?sslmode=require");
        let login = target.login().unwrap();
        let modes: Vec<_> = target
            .servers
            .iter()
            .map(|server| login.at(server).get_ssl_mode())
            .collect();
        assert_eq!(modes, [SslMode::Require, SslMode::Disable]);
    }
}
