//! The functions of MPI that the engine calls, found when the program runs: one program, built without MPI, runs under Open MPI, under MPICH and its kin, and under whatever has the ABI of MPI 5.
//!
//! They differ in what a handle is: Open MPI's are addresses of objects that the library exports, MPICH's are numbers that its ABI fixes (Intel MPI, MVAPICH and Cray's have the same), and MPI 5 has
//! others, for `libmpi_abi` of any maker. A number travels in a register that is wide enough for each.

use std::ffi::{CStr, c_char, c_int, c_void};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::{Error, Launcher, Result};

/// A communicator, a datatype or an error handler.
pub(super) type Handle = usize;

/// A request: as wide as the widest of them.
pub(super) type Request = u64;

macro_rules! table {
    ($($field:ident = $name:literal ($($arg:ty),*);)*) => {
        /// MPI, loaded.
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> c_int,)*
            pub(super) world: Handle,
            pub(super) byte: Handle,
            errors_return: Handle,
            pub(super) status_ignore: *mut c_void,
            /// Threads take turns in calling it.
            serialized: c_int,
            kind: &'static str,
            /// In its own words.
            pub(super) version: String,
        }

        impl Api {
            /// # Safety
            /// `library` is MPI, and stays loaded.
            unsafe fn of(library: &Library) -> Result<Self, &'static str> {
                // SAFETY: these are MPI's own signatures, handles being as wide as a register.
                unsafe {
                    $(let $field = *library.get($name).map_err(|_| {
                        CStr::from_bytes_with_nul($name).ok().and_then(|n| n.to_str().ok()).unwrap_or_default()
                    })?;)*
                    Ok(Self {
                        $($field,)*
                        world: 0,
                        byte: 0,
                        errors_return: 0,
                        status_ignore: std::ptr::null_mut(),
                        serialized: SERIALIZED,
                        kind: "MPI",
                        version: String::new(),
                    })
                }
            }
        }
    };
}

table! {
    init_thread = b"MPI_Init_thread\0" (*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int);
    initialized = b"MPI_Initialized\0" (*mut c_int);
    finalize = b"MPI_Finalize\0" ();
    comm_rank = b"MPI_Comm_rank\0" (Handle, *mut c_int);
    comm_size = b"MPI_Comm_size\0" (Handle, *mut c_int);
    set_errhandler = b"MPI_Comm_set_errhandler\0" (Handle, Handle);
    error_string = b"MPI_Error_string\0" (c_int, *mut c_char, *mut c_int);
    processor_name = b"MPI_Get_processor_name\0" (*mut c_char, *mut c_int);
    library_version = b"MPI_Get_library_version\0" (*mut c_char, *mut c_int);
    isend = b"MPI_Isend\0" (*const c_void, c_int, Handle, c_int, c_int, Handle, *mut Request);
    irecv = b"MPI_Irecv\0" (*mut c_void, c_int, Handle, c_int, c_int, Handle, *mut Request);
    test = b"MPI_Test\0" (*mut Request, *mut c_int, *mut c_void);
}

/// MPI's "done".
const SUCCESS: c_int = 0;

/// `MPI_THREAD_SERIALIZED` of Open MPI and of MPICH.
const SERIALIZED: c_int = 2;

/// More than either has of a text.
const TEXT: usize = 16 << 10;

/// Handles of MPICH's ABI.
const MPICH_WORLD: Handle = 0x4400_0000;
const MPICH_BYTE: Handle = 0x4c00_010d;
const MPICH_ERRORS_RETURN: Handle = 0x5400_0001;
const MPICH_STATUS_IGNORE: usize = 1;

/// Handles of the ABI that is the same for all makers, version 1, after the header of the MPI Forum's `mpi-abi-stubs` (MPI 5.0, chapter 21). A status that is not wanted is a null there.
const WORLD: Handle = 0x101;
const BYTE: Handle = 0x247;
const ERRORS_RETURN: Handle = 0x142;
const THREAD_SERIALIZED: c_int = 2048;
/// Its version, as `MPI_Abi_get_version` says it; a library of another ABI that knows the function says −1.
const ABI: c_int = 1;

/// `MPI_Abi_get_version`.
type GetVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// What tells libraries apart.
struct Found {
    /// Open MPI's objects: the world, a byte, errors that are returned.
    open: Option<[Handle; 3]>,
    /// Major and minor version of the common ABI.
    abi: Option<(c_int, c_int)>,
}

impl Found {
    /// # Safety
    /// `library` is MPI.
    unsafe fn of(library: &Library) -> Self {
        let object = |symbol: &[u8]| {
            // SAFETY: the address alone is of interest.
            unsafe { library.get::<*mut c_void>(symbol) }.ok().map(|s| s.as_raw_ptr() as Handle)
        };
        let open = || {
            let (world, byte) = (object(b"ompi_mpi_comm_world\0")?, object(b"ompi_mpi_byte\0")?);
            Some([world, byte, object(b"ompi_mpi_errors_return\0")?])
        };
        // SAFETY: MPI's own signature; it may be called before MPI has started.
        let abi = unsafe { library.get::<GetVersion>(b"MPI_Abi_get_version\0") }.ok();
        let abi = abi.and_then(|get_version| {
            let (mut major, mut minor) = (-1, -1);
            // SAFETY: writes two numbers.
            let status = unsafe { get_version(&raw mut major, &raw mut minor) };
            (status == SUCCESS && major >= 0).then_some((major, minor))
        });
        Self { open: open(), abi }
    }
}

/// The library's files, those of the launcher's own kind first.
fn names(launcher: Launcher) -> Vec<String> {
    if let Ok(name) = std::env::var("FARTHING_MPI") {
        return vec![name];
    }
    let (open, mpich): (&[_], &[_]) = (&["libmpi.so.40"], &["libmpich.so.12", "libmpi.so.12"]);
    // MPICH numbers the common one by its ABI, from 4.3 on with 0 and from 5.0 on with 1.
    let common = ["libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi_abi.so"];
    let own = match launcher {
        Launcher::Mpich => [mpich, &[]],
        Launcher::OpenMpi => [open, &[]],
        _ => [open, mpich],
    };
    let names = own.into_iter().flatten().chain(&common).chain(&["libmpi.so"]);
    names.map(|name| (*name).to_owned()).collect()
}

impl Api {
    /// The MPI that belongs to the launcher.
    ///
    /// # Errors
    /// [`Error::Library`]: there is none, or it is the other one.
    pub(super) fn load(launcher: Launcher) -> Result<Self> {
        let names = names(launcher);
        let mut reasons = Vec::new();
        for name in &names {
            // SAFETY: MPI's initialisers only register themselves. Open MPI's plugins look for its symbols among the program's.
            let library = match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => library,
                Err(error) => {
                    let reason = std::error::Error::source(&error);
                    let reason = reason.map_or_else(|| error.to_string(), ToString::to_string);
                    if !reason.contains("No such file or directory") {
                        reasons.push(format!("{name}: {reason}"));
                    }
                    continue;
                }
            };
            // SAFETY: a library by the name of MPI, never unloaded.
            let api = unsafe { Self::of(&library) };
            let api = api.map_err(|symbol| {
                let symbol = symbol.trim_end_matches('\0');
                Error::library(
                    format!("{name} has no function {symbol}: it is not MPI, or older than MPI 3"),
                    "install the MPI that belongs to the launcher, or name its library in FARTHING_MPI",
                )
            })?;
            // SAFETY: MPI, as its functions are there.
            let found = unsafe { Found::of(&library) };
            // It has threads of its own, so that it is never unloaded.
            std::mem::forget(library);
            return api.with_handles(&found, launcher, name);
        }
        let what = format!("there is no MPI library: looked for {}", names.join(", "));
        Err(Error::library(
            [what].into_iter().chain(reasons).collect::<Vec<_>>().join("; "),
            "install the MPI that belongs to the launcher (Debian: libopenmpi3 or libmpich12), put it into LD_LIBRARY_PATH, or name its library in FARTHING_MPI",
        ))
    }

    fn with_handles(mut self, found: &Found, launcher: Launcher, name: &str) -> Result<Self> {
        self.version = Self::text(|text, length| {
            // SAFETY: writes a text no longer than MPI's own bound, which is below ours; may be called at any time.
            unsafe { (self.library_version)(text, length) }
        });
        let version = self.version.lines().next().unwrap_or_default().to_owned();
        let is_open = found.open.is_some() || self.version.contains("Open MPI");
        let is_mpich = ["MPICH", "Intel(R) MPI", "MVAPICH", "CRAY"];
        let is_mpich = is_mpich.iter().any(|kind| self.version.contains(kind));
        let other = match launcher {
            Launcher::OpenMpi => !is_open,
            Launcher::Mpich => is_open,
            _ => false,
        };
        if other {
            return Err(Error::library(
                format!("{name} is {version}, and the launcher is {launcher}"),
                "start with the mpirun of the MPI that is installed, or name the other's library in FARTHING_MPI",
            ));
        }
        let unknown = |what: String| {
            let hint = "use Open MPI, MPICH, or an MPI with the ABI of MPI 5, or name its library in FARTHING_MPI";
            Err(Error::library(format!("{name} is {version}: {what}"), hint))
        };
        (self.kind, [self.world, self.byte, self.errors_return]) = match (found.abi, found.open) {
            (Some((ABI, _)), _) => {
                self.serialized = THREAD_SERIALIZED;
                ("MPI", [WORLD, BYTE, ERRORS_RETURN])
            }
            (Some((major, minor)), _) => {
                return unknown(format!("version {major}.{minor} of MPI's ABI, {ABI} is known"));
            }
            (None, Some(open)) => ("Open MPI", open),
            (None, None) if is_mpich => {
                self.status_ignore = std::ptr::without_provenance_mut(MPICH_STATUS_IGNORE);
                ("MPICH", [MPICH_WORLD, MPICH_BYTE, MPICH_ERRORS_RETURN])
            }
            (None, None) => return unknown("of an ABI that is not known".to_owned()),
        };
        Ok(self)
    }

    /// Starts MPI: this process's rank, and how many there are.
    ///
    /// # Errors
    /// [`Error::Library`].
    pub(super) fn start(&self) -> Result<(usize, usize)> {
        let failed = |doing: &str, status| {
            Error::library(
                format!("{doing}: {} says: {}", self.kind(), self.describe(status)),
                "see whether a small program of MPI runs under the same launcher",
            )
        };
        let done = |doing: &str, status| {
            if status == SUCCESS { Ok(()) } else { Err(failed(doing, status)) }
        };
        let (mut begun, mut has, mut rank, mut size) = (0, 0, 0, 0);
        // SAFETY: writes one number each; arguments may be null. What comes after is called when MPI has started.
        unsafe {
            done("asking whether MPI has started", (self.initialized)(&raw mut begun))?;
            if begun == 0 {
                let (count, values) = (std::ptr::null_mut(), std::ptr::null_mut());
                let status = (self.init_thread)(count, values, self.serialized, &raw mut has);
                done("starting MPI", status)?;
            }
            done("setting its errors", (self.set_errhandler)(self.world, self.errors_return))?;
            done("asking for the rank", (self.comm_rank)(self.world, &raw mut rank))?;
            done("asking for their number", (self.comm_size)(self.world, &raw mut size))?;
        }
        if begun == 0 && has < self.serialized {
            return Err(Error::library(
                format!("{} was built without threads", self.kind()),
                "install one that was built with MPI_THREAD_SERIALIZED or more",
            ));
        }
        Ok((rank.max(0) as usize, size.max(1) as usize))
    }

    /// The name of this machine, as MPI has it.
    pub(super) fn machine(&self) -> String {
        Self::text(|text, length| {
            // SAFETY: writes a text no longer than MPI's own bound, which is below ours.
            unsafe { (self.processor_name)(text, length) }
        })
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// A status in the library's words.
    pub(super) fn describe(&self, status: c_int) -> String {
        let text = Self::text(|text, length| {
            // SAFETY: writes a text no longer than MPI's own bound, which is below ours.
            unsafe { (self.error_string)(status, text, length) }
        });
        if text.is_empty() { format!("status {status}") } else { text }
    }

    fn text(write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
        let mut text = vec![0_u8; TEXT];
        let mut length = 0;
        if write(text.as_mut_ptr().cast(), &raw mut length) != SUCCESS {
            return String::new();
        }
        let text = CStr::from_bytes_until_nul(&text).map(CStr::to_string_lossy);
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    }
}

// SAFETY: functions and handles of a library that stays; the engine has threads take turns.
unsafe impl Send for Api {}
// SAFETY: likewise.
unsafe impl Sync for Api {}
