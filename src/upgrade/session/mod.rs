//! Upgrades of the transport in an open session: `StartTlsLayer` and [`UpgradeLayer`].

#[cfg(feature = "tls")]
mod connect;
mod error;
mod layer;
#[cfg(feature = "tls")]
mod start_tls;
mod upgradable;

#[cfg(test)]
pub(crate) use self::upgradable::Upgrade;
#[cfg(feature = "tls")]
pub use self::{
    connect::{StartTlsConnect, StartTlsConnectLayer, StartTlsConnecting},
    start_tls::{StartTlsLayer, StartTlsService},
};
pub use self::{
    error::{BytesBeforeUpgrade, UpgradeError},
    layer::{Carry, Refuse, UpgradeLayer, UpgradeService},
    upgradable::Upgradable,
};
