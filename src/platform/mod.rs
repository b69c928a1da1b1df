//! All code that differs between operating systems. docs/platforms.md describes the effects.
//!
//! Both files of a pair have the same functions. A condition on the operating system stands
//! only here, and in `net` at the Unix sockets.

#[cfg(any(
    windows,
    target_vendor = "apple",
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
))]
mod keepalive;
#[cfg(not(any(
    windows,
    target_vendor = "apple",
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
)))]
#[path = "no_keepalive.rs"]
mod keepalive;
#[cfg(any(target_os = "android", target_os = "linux"))]
mod linux;
#[cfg(not(any(target_os = "android", target_os = "linux")))]
#[path = "no_linux.rs"]
mod linux;
#[cfg(all(
    unix,
    not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))
))]
mod reuse_port;
#[cfg(not(all(
    unix,
    not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))
)))]
#[path = "no_reuse_port.rs"]
mod reuse_port;
#[cfg(not(unix))]
#[path = "no_unix.rs"]
mod unix;
#[cfg(unix)]
mod unix;

#[cfg(feature = "tls")]
pub(crate) use self::unix::file_number;
pub(crate) use self::{
    keepalive::with_probes,
    linux::{INHERITS_OPTIONS, RECEIVES_BATCHES, fragmenting_state, limit_unsent},
    reuse_port::set_reuse_port,
    unix::{REUSES_ADDRESS, interrupt, path, terminate},
};
