//! One server and its connections.

use super::Settings;
use super::connection::Replies;
use super::open::Connector;
use super::url::Place;
use super::wire::Batch;
use crate::host::Bulk;
use crate::stores::served::{Lease, Limits, Lost, Pool, PoolOptions};
use std::sync::Arc;
use tokio::time::Instant;

pub struct Node {
    pub place: Place,
    /// What the cluster calls it, if that is known.
    pub id: Option<Arc<[u8]>>,
    /// The line of the operations that it gets.
    pub line: usize,
    pub pool: Arc<Pool<Connector>>,
}

impl Node {
    pub fn new(place: Place, id: Option<&[u8]>, line: usize, settings: &Arc<Settings>, bulk: &Bulk) -> Self {
        let id: Option<Arc<[u8]>> = id.map(Into::into);
        let connector = Connector {
            settings: Arc::clone(settings),
            words: place.to_string().into(),
            place: place.clone(),
            id: id.clone(),
            bulk: bulk.clone(),
        };
        let options = PoolOptions {
            max_connections: settings.max_connections,
            connect_timeout: settings.connect_timeout,
            max_lifetime: settings.max_lifetime,
            idle_timeout: settings.idle_timeout,
            // Others have told of it.
            known: id.is_some(),
        };
        Self {
            place,
            id,
            line,
            pool: Arc::new(Pool::new(connector, options)),
        }
    }

    /// Sends commands on a connection of their own.
    pub async fn request(&self, batch: Batch, deadline: Instant) -> Replies {
        match self.pool.take(deadline).await {
            Ok(lease) => on(&lease, batch, deadline).await,
            Err(lost) => Replies::none(lost),
        }
    }

    /// The same, and which run of the server has answered.
    pub async fn request_by(&self, batch: Batch, deadline: Instant) -> (Replies, Option<Vec<u8>>) {
        match self.pool.take(deadline).await {
            Ok(lease) => {
                let replies = on(&lease, batch, deadline).await;
                (replies, lease.run().map(<[u8]>::to_vec))
            }
            Err(lost) => (Replies::none(lost), None),
        }
    }

    /// The replies, if there is one to each command.
    pub async fn ask(&self, batch: Batch, deadline: Instant) -> Result<Vec<redis::Value>, Lost> {
        let Replies { values, end } = self.request(batch, deadline).await;
        end.map_or(Ok(values), Err)
    }
}

async fn on(lease: &Lease<Connector>, batch: Batch, deadline: Instant) -> Replies {
    // There is nothing that could be cancelled.
    let limits = Limits {
        late: deadline,
        deadline,
    };
    let replies = lease.one(limits, async { Ok(lease.request(batch).await) }).await;
    replies.unwrap_or_else(|fault| Replies::none(fault.lost()))
}
