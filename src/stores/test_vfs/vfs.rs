//! The VFS itself, by SQLite's documented interface: our file object stands
//! before the native one, and each method calls the native method.

use super::disk::{Action, Call, Change, Disk, Kind, Method};
use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::{Arc, OnceLock};

/// Our part of a file object. The native one follows in the same memory.
#[repr(C)]
struct File {
    base: sqlite3_file,
    /// From a box, or null if the file is not watched.
    watched: *mut Watched,
}

struct Watched {
    disk: Arc<Disk>,
    kind: Kind,
    /// Whether this file object was synced before.
    synced: bool,
    /// Writes to be carried out after the next sync.
    held: Vec<(sqlite3_int64, Vec<u8>)>,
}

struct Native(*mut sqlite3_vfs);

// SAFETY: a VFS that is registered may be used by any thread.
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

static NATIVE: OnceLock<Native> = OnceLock::new();

/// Makes this VFS the default of connections that are opened from now on.
pub fn register() {
    NATIVE.get_or_init(|| {
        // SAFETY: this may be called at any time, by any thread. The native VFS
        // is a static. Ours is leaked, as SQLite keeps the pointer. Methods
        // that are not replaced are the native ones; they find the native
        // `pAppData` in our copy.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let native = ffi::sqlite3_vfs_find(ptr::null());
            let ours = Box::leak(Box::new(*native));
            ours.pNext = ptr::null_mut();
            ours.zName = c"test".as_ptr();
            ours.szOsFile += c_int::try_from(size_of::<File>()).unwrap();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(ours, 1), ffi::SQLITE_OK);
            Native(native)
        }
    });
}

fn native_vfs() -> *mut sqlite3_vfs {
    NATIVE.get().map_or(ptr::null_mut(), |native| native.0)
}

/// A panic must not unwind into SQLite.
fn guard(body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(ffi::SQLITE_INTERNAL)
}

/// # Safety
///
/// `name` is null or a C string.
unsafe fn disk_of(name: *const c_char) -> Option<(Arc<Disk>, Kind)> {
    if name.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    let name = unsafe { CStr::from_ptr(name) };
    Disk::of(Path::new(OsStr::from_bytes(name.to_bytes())))
}

/// `xOpen`
unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite gives memory of `szOsFile` bytes, which has room for
        // both objects. While `pMethods` is null, no other method is called.
        unsafe {
            ptr::write_bytes(file.cast::<File>(), 0, 1);
            let native = native_file(file);
            (*native).pMethods = ptr::null();
            let open = || {
                (*native_vfs()).xOpen.map_or(ffi::SQLITE_CANTOPEN, |open| {
                    open(native_vfs(), name, native, flags, flags_out)
                })
            };
            let watched = disk_of(name);
            let code = match &watched {
                None => open(),
                Some((disk, kind)) => match disk.decide(&call(*kind, Method::Open)) {
                    Some(Action::Fail(code)) => code,
                    _ => disk.change(*kind, Change::Opened, open),
                },
            };
            // By the documentation it must be closed even if opening failed.
            if !(*native).pMethods.is_null() {
                let ours = file.cast::<File>();
                (*ours).base.pMethods = &raw const METHODS;
                (*ours).watched = watched.map_or(ptr::null_mut(), |(disk, kind)| {
                    Box::into_raw(Box::new(Watched {
                        disk,
                        kind,
                        synced: false,
                        held: Vec::new(),
                    }))
                });
            }
            code
        }
    })
}

/// `xDelete`
unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    guard(|| {
        let native = || {
            // SAFETY: as SQLite called this method.
            unsafe {
                (*native_vfs()).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| {
                    delete(native_vfs(), name, sync_folder)
                })
            }
        };
        // SAFETY: SQLite gives a C string.
        let Some((disk, kind)) = (unsafe { disk_of(name) }) else {
            return native();
        };
        match disk.decide(&call(kind, Method::Delete)) {
            Some(Action::Fail(code)) => code,
            Some(Action::Skip) => ffi::SQLITE_OK,
            _ => {
                let synced = sync_folder != 0;
                disk.change(kind, Change::Deleted { synced }, native)
            }
        }
    })
}

fn call(kind: Kind, method: Method) -> Call {
    Call {
        kind,
        method,
        offset: 0,
        length: 0,
    }
}

/// # Safety
///
/// `file` is an object that SQLite has made for this VFS.
unsafe fn native_file(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: the native object follows ours, and has its alignment.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// # Safety
///
/// As for [`native_file`]; the file is open, and this is the only reference.
unsafe fn watched<'a>(file: *mut sqlite3_file) -> Option<&'a mut Watched> {
    // SAFETY: it is null or from the box that `open` has made, which is alive
    // until `close`. SQLite uses a file on one thread at a time.
    unsafe { (*file.cast::<File>()).watched.as_mut() }
}

/// For each method a function of the same name that calls the native one.
mod native {
    use super::{c_int, c_void, ffi, native_file, sqlite3_file, sqlite3_int64};

    macro_rules! methods {
        ($($name:ident: $method:ident($($argument:ident: $type:ty),*) or $otherwise:expr;)*) => {$(
            /// # Safety
            ///
            /// As SQLite calls the method, on a file of our VFS.
            pub unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $type)*) -> c_int {
                // SAFETY: promised by the caller; the native file is open while
                // ours is.
                unsafe {
                    let file = native_file(file);
                    let methods = &*(*file).pMethods;
                    methods.$method.map_or($otherwise, |method| method(file $(, $argument)*))
                }
            }
        )*};
    }

    methods! {
        close: xClose() or ffi::SQLITE_IOERR_CLOSE;
        read: xRead(into: *mut c_void, length: c_int, offset: sqlite3_int64) or ffi::SQLITE_IOERR;
        write: xWrite(from: *const c_void, length: c_int, offset: sqlite3_int64) or ffi::SQLITE_IOERR;
        truncate: xTruncate(size: sqlite3_int64) or ffi::SQLITE_IOERR;
        sync: xSync(flags: c_int) or ffi::SQLITE_IOERR;
        file_size: xFileSize(size: *mut sqlite3_int64) or ffi::SQLITE_IOERR;
        lock: xLock(level: c_int) or ffi::SQLITE_IOERR_LOCK;
        unlock: xUnlock(level: c_int) or ffi::SQLITE_IOERR_UNLOCK;
        check_reserved_lock: xCheckReservedLock(result: *mut c_int) or ffi::SQLITE_IOERR_CHECKRESERVEDLOCK;
        file_control: xFileControl(op: c_int, argument: *mut c_void) or ffi::SQLITE_NOTFOUND;
        sector_size: xSectorSize() or 4096;
        device_characteristics: xDeviceCharacteristics() or 0;
        shm_map: xShmMap(page: c_int, size: c_int, extend: c_int, to: *mut *mut c_void) or ffi::SQLITE_IOERR_SHMMAP;
        shm_lock: xShmLock(offset: c_int, count: c_int, flags: c_int) or ffi::SQLITE_IOERR_SHMLOCK;
        shm_unmap: xShmUnmap(delete: c_int) or ffi::SQLITE_OK;
        fetch: xFetch(offset: sqlite3_int64, length: c_int, to: *mut *mut c_void) or ffi::SQLITE_IOERR;
        unfetch: xUnfetch(offset: sqlite3_int64, page: *mut c_void) or ffi::SQLITE_OK;
    }

    /// # Safety
    ///
    /// As above.
    pub unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
        // SAFETY: as above.
        unsafe {
            let file = native_file(file);
            if let Some(barrier) = (*(*file).pMethods).xShmBarrier {
                barrier(file);
            }
        }
    }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(native::file_size),
    xLock: Some(lock),
    xUnlock: Some(native::unlock),
    xCheckReservedLock: Some(native::check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(native::sector_size),
    xDeviceCharacteristics: Some(native::device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(native::shm_barrier),
    xShmUnmap: Some(native::shm_unmap),
    xFetch: Some(native::fetch),
    xUnfetch: Some(native::unfetch),
};

/// The common body of the methods with rules: it asks the rules, then calls
/// `native` with what is watched, and with whether a rule says [`Action::Hold`].
///
/// # Safety
///
/// As for [`watched`].
unsafe fn ruled(
    file: *mut sqlite3_file,
    method: Method,
    (offset, length): (sqlite3_int64, c_int),
    native: impl FnOnce(Option<&mut Watched>, bool) -> c_int,
) -> c_int {
    guard(|| {
        // SAFETY: promised by the caller.
        let Some(watched) = (unsafe { watched(file) }) else {
            return native(None, false);
        };
        let call = Call {
            offset,
            length: usize::try_from(length).unwrap(),
            ..call(watched.kind, method)
        };
        match watched.disk.decide(&call) {
            Some(Action::Fail(code)) if method == Method::Sync => watched.disk.sync(watched.kind, 0, false, || code),
            Some(Action::Fail(code)) => code,
            Some(Action::Skip) => ffi::SQLITE_OK,
            action => native(Some(watched), matches!(action, Some(Action::Hold))),
        }
    })
}

/// Carries out and records a write.
///
/// # Safety
///
/// As for [`watched`].
unsafe fn write_now(file: *mut sqlite3_file, watched: &Watched, bytes: &[u8], offset: sqlite3_int64) -> c_int {
    let change = Change::Wrote {
        offset: usize::try_from(offset).unwrap(),
        bytes: bytes.to_vec(),
    };
    let length = c_int::try_from(bytes.len()).unwrap();
    // SAFETY: promised by the caller.
    let write = || unsafe { native::write(file, bytes.as_ptr().cast(), length, offset) };
    watched.disk.change(watched.kind, change, write)
}

/// Carries out the writes that were held back.
///
/// # Safety
///
/// As for [`watched`].
unsafe fn write_held(file: *mut sqlite3_file, watched: &mut Watched) -> c_int {
    for (offset, bytes) in std::mem::take(&mut watched.held) {
        // SAFETY: promised by the caller.
        let code = unsafe { write_now(file, watched, &bytes, offset) };
        if code != ffi::SQLITE_OK {
            return code;
        }
    }
    ffi::SQLITE_OK
}

/// `xClose`
unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    guard(|| {
        // SAFETY: SQLite does not use the file after this; `watched` is null or
        // from the box that `open` has made.
        unsafe {
            let watched = (*file.cast::<File>()).watched;
            let watched = (!watched.is_null()).then(|| Box::from_raw(watched));
            let close = || native::close(file);
            match watched {
                None => close(),
                Some(watched) => watched.disk.change(watched.kind, Change::Closed, close),
            }
        }
    })
}

/// `xRead`
unsafe extern "C" fn read(file: *mut sqlite3_file, into: *mut c_void, length: c_int, offset: sqlite3_int64) -> c_int {
    // SAFETY: SQLite called this method so; the same in all methods below.
    unsafe {
        ruled(file, Method::Read, (offset, length), |watched, _| {
            match watched.map_or(ffi::SQLITE_OK, |watched| write_held(file, watched)) {
                ffi::SQLITE_OK => native::read(file, into, length, offset),
                code => code,
            }
        })
    }
}

/// `xWrite`
unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    length: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: as in `read`; `from` has `length` bytes.
    unsafe {
        ruled(file, Method::Write, (offset, length), |watched, hold| {
            let Some(watched) = watched else {
                return native::write(file, from, length, offset);
            };
            let bytes = slice::from_raw_parts(from.cast(), usize::try_from(length).unwrap());
            if hold {
                watched.held.push((offset, bytes.to_vec()));
                return ffi::SQLITE_OK;
            }
            write_now(file, watched, bytes, offset)
        })
    }
}

/// `xSync`
unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe {
        ruled(file, Method::Sync, (0, 0), |watched, _| {
            let Some(watched) = watched else {
                return native::sync(file, flags);
            };
            // The native VFS syncs the folder with the first sync of a log.
            let folder = watched.kind != Kind::Database && !watched.synced;
            // The record says what a power loss leaves. A sync of the real disk would
            // only take time.
            match watched.disk.sync(watched.kind, flags, folder, || ffi::SQLITE_OK) {
                ffi::SQLITE_OK => {
                    watched.synced = true;
                    write_held(file, watched)
                }
                code => code,
            }
        })
    }
}

/// `xTruncate`
unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: as in `read`.
    unsafe {
        ruled(file, Method::Truncate, (0, 0), |watched, _| {
            let truncate = || native::truncate(file, size);
            match watched {
                None => truncate(),
                Some(watched) => {
                    let change = Change::Resized(usize::try_from(size).unwrap());
                    watched.disk.change(watched.kind, change, truncate)
                }
            }
        })
    }
}

/// `xFileControl`
unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    guard(|| {
        // SAFETY: as in `read`.
        unsafe {
            let code = native::file_control(file, op, argument);
            // The native VFS extends a file that is mapped.
            if op == ffi::SQLITE_FCNTL_SIZE_HINT
                && let Some(watched) = watched(file)
            {
                let mut size = 0;
                native::file_size(file, &raw mut size);
                let change = Change::Resized(usize::try_from(size).unwrap());
                watched.disk.change(watched.kind, change, || code);
            }
            code
        }
    })
}

/// `xLock`
unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe { ruled(file, Method::Lock, (0, 0), |_, _| native::lock(file, level)) }
}

/// `xShmMap`
unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    to: *mut *mut c_void,
) -> c_int {
    // SAFETY: as in `read`.
    unsafe {
        ruled(file, Method::ShmMap, (0, 0), |_, _| {
            native::shm_map(file, page, size, extend, to)
        })
    }
}

/// `xShmLock`
unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe {
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            // This never fails, and SQLite does not look at the result.
            return native::shm_lock(file, offset, count, flags);
        }
        ruled(file, Method::ShmLock, (0, 0), |_, _| {
            native::shm_lock(file, offset, count, flags)
        })
    }
}
