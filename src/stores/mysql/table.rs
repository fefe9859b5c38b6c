//! Creates the table, checks one that others made, and drops it.

use super::catalogue::layout;
use super::connection::Connection;
use super::failure::{Failure, Verdict, verdict};
use super::statements::Statements;
use super::work::Work;
use crate::kv::Result as KvResult;
use mysql_async::ServerError;

/// Makes sure that the table can be used and has its index. The answer is whether
/// there is a table.
pub struct Create<'a> {
    pub statements: &'a Statements,
    /// Whether a missing table may be created.
    pub creates: bool,
}

impl Work for Create<'_> {
    type Answer = KvResult<bool>;

    async fn attempt(&mut self, connection: &mut Connection) -> Result<KvResult<bool>, Failure> {
        let statements = self.statements;
        let mut refusal = None;
        loop {
            let parts = match connection.parts(&statements.catalogue()).await {
                Ok(parts) => parts,
                // The server does not tell. Its table is taken as it is.
                Err(Failure::Server(error)) if matches!(verdict(&error), Verdict::Final(_)) => {
                    if self.creates {
                        connection.plain(&statements.create_table()).await?;
                    }
                    statements.use_index(None);
                    return Ok(Ok(true));
                }
                Err(failure) => return Err(failure),
            };
            match layout(statements.table_name(), &parts) {
                Ok(Some(layout)) => {
                    statements.use_index(Some(&layout.key_index));
                    if layout.finds_expired || !self.creates {
                        return Ok(Ok(true));
                    }
                }
                Ok(None) if !self.creates => return Ok(Ok(false)),
                Ok(None) => {
                    connection.plain(&statements.create_table()).await?;
                    continue;
                }
                // Another client may have dropped the table while it was looked at.
                Err(error) if refusal.as_ref() != Some(&error) => {
                    refusal = Some(error);
                    continue;
                }
                Err(error) => return Ok(Err(error)),
            }
            match connection.plain(&statements.create_index()).await {
                // Another client has dropped it meanwhile.
                Err(Failure::Server(error)) if is_missing(&error) => {}
                // Another client was first; or the table exists and we may not
                // change it, which only makes sweeps slower.
                Err(Failure::Server(error)) if matches!(error.code, 1061 | 1142) => return Ok(Ok(true)),
                result => return result.map(|_| Ok(true)),
            }
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
    type Answer = ();

    async fn attempt(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        connection.plain(&self.statements.drop_table()).await?;
        Ok(())
    }
}
