//! The addresses that the driver connects to. We look up the host names: the
//! driver's own look-ups panic when no thread can be started for them.

use crate::stores::served::look_up;
use rand::seq::SliceRandom;
use rand::thread_rng;
use std::io;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};

/// The port of a URL that names none.
const PORT: u16 = 5432;

/// One configuration for each address, in the order in which to try them.
///
/// # Errors
///
/// If no host has an address, the error of the last one.
pub async fn addressed(config: &Config) -> io::Result<Vec<Config>> {
    let base = without_hosts(config);
    // The driver refuses several ports unless there is one for each host.
    let several = config.get_ports().len() > 1 && config.get_ports().len() != config.get_hosts().len();
    if several || !config.get_hostaddrs().is_empty() || with_hosts_of(base.clone(), config) != *config {
        return Ok(vec![config.clone()]);
    }
    let random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    let mut hosts: Vec<_> = config.get_hosts().iter().enumerate().collect();
    if random {
        hosts.shuffle(&mut thread_rng());
    }
    let mut configs = Vec::new();
    let mut failure = None;
    for (index, host) in hosts {
        let ports = config.get_ports();
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(PORT);
        let name = match host {
            Host::Tcp(name) => name,
            #[cfg(unix)]
            Host::Unix(path) => {
                configs.push(base.clone().host_path(path).port(port).clone());
                continue;
            }
        };
        match look_up(name, port).await {
            Ok(mut addresses) => {
                if random {
                    addresses.shuffle(&mut thread_rng());
                }
                let config = |address: std::net::SocketAddr| {
                    // The server's certificate is checked against the name.
                    base.clone().host(name).hostaddr(address.ip()).port(port).clone()
                };
                configs.extend(addresses.into_iter().map(config));
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if configs.is_empty() => Err(error),
        _ => Ok(configs),
    }
}

/// Connects with the first configuration that works.
///
/// # Errors
///
/// If none does, the error of the last one.
pub async fn connect_first<T>(configs: &[Config], tls: T) -> Result<(Client, Connection<Socket, T::Stream>), Error>
where
    T: MakeTlsConnect<Socket> + Clone,
{
    // Without any configuration, this is the driver's error for a missing host.
    let mut tried = Config::new().connect(tls.clone()).await;
    for config in configs {
        tried = config.connect(tls.clone()).await;
        if tried.is_ok() {
            break;
        }
    }
    tried
}

/// All settings but the hosts, which the driver can add but not remove.
fn without_hosts(config: &Config) -> Config {
    let mut base = Config::new();
    if let Some(user) = config.get_user() {
        base.user(user);
    }
    if let Some(password) = config.get_password() {
        base.password(password);
    }
    if let Some(name) = config.get_dbname() {
        base.dbname(name);
    }
    if let Some(options) = config.get_options() {
        base.options(options);
    }
    if let Some(name) = config.get_application_name() {
        base.application_name(name);
    }
    if let Some(limit) = config.get_connect_timeout() {
        base.connect_timeout(*limit);
    }
    if let Some(limit) = config.get_tcp_user_timeout() {
        base.tcp_user_timeout(*limit);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        base.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        base.keepalives_retries(retries);
    }
    base.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    base
}

fn with_hosts_of(mut base: Config, config: &Config) -> Config {
    for host in config.get_hosts() {
        match host {
            Host::Tcp(name) => base.host(name),
            #[cfg(unix)]
            Host::Unix(path) => base.host_path(path),
        };
    }
    for port in config.get_ports() {
        base.port(*port);
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    fn addresses(url: &str) -> io::Result<Vec<(String, u16)>> {
        let config = url.parse().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let place = |config: &Config| {
            let host = match (config.get_hosts(), config.get_hostaddrs()) {
                ([Host::Tcp(_)], [address]) => address.to_string(),
                #[cfg(unix)]
                ([Host::Unix(path)], []) => path.display().to_string(),
                other => format!("{other:?}"),
            };
            (host, config.get_ports()[0])
        };
        let configs = runtime.block_on(addressed(&config))?;
        Ok(configs.iter().map(place).collect())
    }

    #[test]
    fn each_address_of_each_host_is_tried() {
        let known = |host: &str, port| (host.to_owned(), port);
        assert_eq!(
            addresses("postgres://192.0.2.1/db").unwrap(),
            [known("192.0.2.1", 5432)]
        );
        let several = addresses("postgres://192.0.2.1:1,192.0.2.2:2,%2Frun:3/db").unwrap();
        assert_eq!(
            several,
            [known("192.0.2.1", 1), known("192.0.2.2", 2), known("/run", 3)]
        );
        let one_port = addresses("host=192.0.2.1,192.0.2.2 port=7").unwrap();
        assert_eq!(one_port, [known("192.0.2.1", 7), known("192.0.2.2", 7)]);
        let local = addresses("postgres://localhost:4/db").unwrap();
        assert!(local.contains(&known("127.0.0.1", 4)) || local.contains(&known("::1", 4)));
        // A name without an address doesn't prevent the other attempts.
        let rest = addresses("host=no*such*host,192.0.2.2").unwrap();
        assert_eq!(rest, [known("192.0.2.2", 5432)]);
        assert!(addresses("host=no*such*host").is_err());
    }

    #[test]
    fn no_setting_is_lost() {
        let config: Config = "postgres://us%40er:pass@host:1,other:2/db?options=-cgeqo%3Doff&application_name=a\
            &sslmode=require&sslnegotiation=direct&connect_timeout=3&tcp_user_timeout=4&keepalives=0&keepalives_idle=5\
            &keepalives_interval=6&keepalives_retries=7&target_session_attrs=read-write&channel_binding=require\
            &load_balance_hosts=random"
            .parse()
            .unwrap();
        assert_eq!(with_hosts_of(without_hosts(&config), &config), config);
        let none: Config = "postgres://host".parse().unwrap();
        assert_eq!(with_hosts_of(without_hosts(&none), &none), none);
    }
}
