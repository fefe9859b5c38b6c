//! Creates the table, checks one that others made, and drops it.

use super::catalogue::{Layout, layout};
use super::connection::Connection;
use super::failure::{Failure, Verdict, verdict};
use super::statements::Statements;
use super::work::Work;
use crate::kv::Result as KvResult;
use mysql_async::ServerError;

/// How often to look again after other clients have created or dropped the table.
const LOOKS: u32 = 20;

/// Makes sure that the table can be used and has its index. The answer is why it
/// can't.
pub struct Create<'a> {
    pub statements: &'a Statements,
    /// Whether a missing table may be created.
    pub creates: bool,
}

impl Work for Create<'_> {
    type Answer = KvResult<()>;

    async fn attempt(&mut self, connection: &mut Connection) -> Result<KvResult<()>, Failure> {
        let statements = self.statements;
        for _ in 0..LOOKS {
            match look(statements, connection).await? {
                Err(error) => return Ok(Err(error)),
                Ok(Some(layout)) => {
                    statements.use_index(Some(&layout.key_index));
                    if layout.finds_expired || !self.creates {
                        return Ok(Ok(()));
                    }
                }
                Ok(None) if self.creates => {
                    connection.plain(&statements.create_table()).await?;
                    if connection.has_warned() {
                        // Another client was first.
                        continue;
                    }
                    statements.use_index(Some("PRIMARY"));
                }
                Ok(None) => break,
            }
            match connection.plain(&statements.create_index()).await {
                // Another client has dropped it meanwhile.
                Err(Failure::Server(error)) if is_missing(&error) => {}
                // Another client was first; or the table exists and we may not
                // change it, which only makes sweeps slower.
                Err(Failure::Server(error)) if matches!(error.code, 1061 | 1142) => return Ok(Ok(())),
                result => return result.map(|_| Ok(())),
            }
        }
        // The server does not tell. If there is a table, it is taken as it is.
        statements.use_index(None);
        connection.plain(&statements.find_table()).await?;
        Ok(Ok(()))
    }
}

/// What the catalogue says about the table, and whether it can be used.
async fn look(statements: &Statements, connection: &mut Connection) -> Result<KvResult<Option<Layout>>, Failure> {
    let mut refusal = None;
    loop {
        let parts = match connection.parts(&statements.catalogue()).await {
            Err(Failure::Server(error)) if matches!(verdict(&error), Verdict::Final(_)) => return Ok(Ok(None)),
            parts => parts?,
        };
        match layout(statements.table_name(), &parts) {
            // Another client may have dropped the table while it was looked at.
            Err(error) if refusal.as_ref() != Some(&error) => refusal = Some(error),
            found => return Ok(found),
        }
    }
}

fn is_missing(error: &ServerError) -> bool {
    matches!(verdict(error), Verdict::NoTable(_))
}

pub struct Drop<'a> {
    pub statements: &'a Statements,
}

impl Work for Drop<'_> {
    type Answer = KvResult<()>;

    async fn attempt(&mut self, connection: &mut Connection) -> Result<KvResult<()>, Failure> {
        // Another program's table stays.
        if let Err(error) = look(self.statements, connection).await? {
            return Ok(Err(error));
        }
        connection.plain(&self.statements.drop_table()).await?;
        Ok(Ok(()))
    }
}
