//! Who else in this process has a database file open.
//!
//! POSIX locks belong to a process, and closing any descriptor of a file drops
//! all the process's locks on it. One copy of the SQLite library knows that and
//! takes care among its own connections. Two copies, ours and the one in
//! `node:sqlite`, say, cancel each other's locks without noticing, and can so
//! corrupt the file. Hence this list of the descriptors that are ours.

use std::path::Path;

#[cfg(unix)]
pub use unix::{Claim, open};

#[cfg(unix)]
mod unix {
    use super::Path;
    use std::collections::{HashMap, HashSet};
    use std::fs;
    use std::mem::MaybeUninit;
    use std::os::fd::RawFd;
    use std::os::unix::fs::MetadataExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Device and inode: what a file is, whatever its paths.
    type File = (u64, u64);

    static OURS: Mutex<Option<HashMap<File, HashSet<RawFd>>>> = Mutex::new(None);

    fn ours() -> MutexGuard<'static, Option<HashMap<File, HashSet<RawFd>>>> {
        OURS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection's share of a file. Given up after the connection is closed.
    pub struct Claim(Option<File>);

    /// Opens a connection with `connect`, unless somebody else in this process
    /// has the file open: then `None`.
    pub fn open<T, E>(path: &Path, connect: impl FnOnce() -> Result<T, E>) -> Option<Result<(T, Claim), E>> {
        // Held all the while, so that what opens meanwhile is ours.
        let mut ours = ours();
        let ours = ours.get_or_insert_default();
        if let Some(file) = file_at(path) {
            let known = ours.get(&file);
            if descriptors_of(file)
                .iter()
                .any(|fd| !known.is_some_and(|known| known.contains(fd)))
            {
                return None;
            }
        }
        Some(connect().map(|connection| {
            let file = file_at(path);
            if let Some(file) = file {
                ours.insert(file, descriptors_of(file));
            }
            (connection, Claim(file))
        }))
    }

    impl Drop for Claim {
        fn drop(&mut self) {
            let Some(file) = self.0 else { return };
            let mut ours = ours();
            let Some(files) = ours.as_mut() else { return };
            if let Some(known) = files.get_mut(&file) {
                let open = descriptors_of(file);
                known.retain(|fd| open.contains(fd));
                if known.is_empty() {
                    files.remove(&file);
                }
            }
        }
    }

    fn file_at(path: &Path) -> Option<File> {
        fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// This process's open descriptors of a file.
    fn descriptors_of(file: File) -> HashSet<RawFd> {
        let folder = if cfg!(target_os = "linux") {
            "/proc/self/fd"
        } else {
            "/dev/fd"
        };
        let Ok(entries) = fs::read_dir(folder) else {
            return HashSet::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|fd| file_of(*fd) == Some(file))
            .collect()
    }

    #[cfg_attr(
        target_os = "linux",
        expect(clippy::unnecessary_cast, reason = "other systems have other types")
    )]
    #[cfg_attr(
        target_os = "macos",
        expect(clippy::cast_sign_loss, reason = "a device number is only compared")
    )]
    fn file_of(fd: RawFd) -> Option<File> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `stat` has room for the result. A descriptor that was closed
        // since it was listed gives an error, not a fault.
        if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: fstat succeeded, so it wrote the result.
        let stat = unsafe { stat.assume_init() };
        Some((stat.st_dev as u64, stat.st_ino as u64))
    }
}

#[cfg(not(unix))]
pub struct Claim;

/// Windows locks belong to a handle; there is nothing to find out.
#[cfg(not(unix))]
pub fn open<T, E>(_: &Path, connect: impl FnOnce() -> Result<T, E>) -> Option<Result<(T, Claim), E>> {
    Some(connect().map(|connection| (connection, Claim)))
}
