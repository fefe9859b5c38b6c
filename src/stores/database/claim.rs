//! Which descriptors of a database file are ours.
//!
//! POSIX locks belong to a process, and closing any descriptor of a file drops
//! all the process's locks on it. A copy of the SQLite library takes care of that
//! for its own connections only. Two copies, such as ours and the one in
//! `node:sqlite`, cancel each other's locks without noticing, which can corrupt
//! the file. So the descriptors that our copy has opened are recorded here, and a
//! file that this process has open in another way is refused.

use super::file::FileId;
use crate::kv::{Error, Result};
use std::path::Path;

#[cfg(unix)]
pub use unix::{Claim, open};

#[cfg(unix)]
mod unix {
    use super::{Error, FileId, Path, Result};
    use parking_lot::Mutex;
    use std::collections::{BTreeMap, HashSet};
    use std::fs;
    use std::mem::MaybeUninit;
    use std::os::fd::RawFd;

    static OURS: Mutex<BTreeMap<FileId, HashSet<RawFd>>> = Mutex::new(BTreeMap::new());

    /// A connection's share of a file. It is released after the connection is closed.
    pub struct Claim(Option<FileId>);

    /// Opens a connection with `connect`. Returns it with the file that it
    /// belongs to.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if other code of this process has the file open.
    pub fn open<T>(path: &Path, connect: impl FnOnce() -> Result<T>) -> Result<(T, Claim)> {
        // Held until the end, so that all descriptors that are opened meanwhile are
        // ours.
        let mut ours = OURS.lock();
        if let Some(file) = FileId::at(path) {
            let known = ours.get(&file);
            let foreign = |fd: &RawFd| !known.is_some_and(|known| known.contains(fd));
            if descriptors_of(file).iter().any(foreign) {
                return Err(Error::Connection(format!(
                    "{} is already open in this process, through another copy of SQLite (such as node:sqlite or \
                    better-sqlite3) or as a plain file. Closing one would release the other's locks, which can corrupt \
                    the database. Close the other one first, or give this store a file of its own",
                    path.display()
                )));
            }
        }
        let connection = connect();
        // SQLite may leave descriptors open even if it fails to connect: it closes
        // no descriptor of a file on which it holds locks.
        let file = FileId::at(path);
        if let Some(file) = file {
            record(&mut ours, file);
        }
        Ok((connection?, Claim(file)))
    }

    impl Drop for Claim {
        fn drop(&mut self) {
            let Some(file) = self.0 else { return };
            let mut ours = OURS.lock();
            let open = descriptors_of(file);
            if let Some(known) = ours.get_mut(&file) {
                known.retain(|fd| open.contains(fd));
                if known.is_empty() {
                    ours.remove(&file);
                }
            }
        }
    }

    fn record(ours: &mut BTreeMap<FileId, HashSet<RawFd>>, file: FileId) {
        let open = descriptors_of(file);
        if open.is_empty() {
            ours.remove(&file);
        } else {
            ours.insert(file, open);
        }
    }

    /// This process's open descriptors of a file.
    fn descriptors_of(file: FileId) -> HashSet<RawFd> {
        let of_file = |fd: &RawFd| file_of(*fd) == Some(file);
        let folder = if cfg!(target_os = "linux") {
            "/proc/self/fd"
        } else {
            "/dev/fd"
        };
        match fs::read_dir(folder) {
            Ok(entries) => entries
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .filter(of_file)
                .collect(),
            // Listing them takes a descriptor, and there may be none to spare.
            Err(_) => (0..most_descriptors()).filter(of_file).collect(),
        }
    }

    /// One past the highest descriptor that this process may have.
    fn most_descriptors() -> RawFd {
        let mut limit = MaybeUninit::<libc::rlimit>::uninit();
        // SAFETY: `limit` has room for the result.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) } != 0 {
            return 0;
        }
        // SAFETY: getrlimit succeeded, so it wrote the result.
        let limit = unsafe { limit.assume_init() }.rlim_cur;
        RawFd::try_from(limit).unwrap_or(RawFd::MAX)
    }

    #[cfg_attr(
        target_os = "linux",
        expect(clippy::unnecessary_cast, reason = "other systems have other types")
    )]
    #[cfg_attr(
        target_os = "macos",
        expect(clippy::cast_sign_loss, reason = "a device number is only compared")
    )]
    fn file_of(fd: RawFd) -> Option<FileId> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `stat` has room for the result. A descriptor that was closed
        // since it was listed gives an error, not a fault.
        if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: fstat succeeded, so it wrote the result.
        let stat = unsafe { stat.assume_init() };
        Some(FileId {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        })
    }
}

#[cfg(not(unix))]
pub struct Claim;

/// On Windows, locks belong to a handle, so other copies of SQLite do no harm.
#[cfg(not(unix))]
pub fn open<T>(_: &Path, connect: impl FnOnce() -> Result<T>) -> Result<(T, Claim)> {
    Ok((connect()?, Claim))
}
