//! Common parts of the connectors: the dial future, its time limit, and its error.

mod connecting;
mod dialer;
mod error;
mod race;
mod settings;

pub use self::{connecting::Connecting, error::ConnectError};
pub(super) use self::{
    dialer::{CONNECT_TIMEOUT, Dialer, dial_one},
    error::self_connect,
    settings::dial_settings,
};
