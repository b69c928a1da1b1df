//! Settings of layers that can be changed while the session is open.

use super::ConnectionHandle;

/// A setting that layers have. Each is a bit: a connection records which it has (design.md: How
/// does a setting change while a session is open?).
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Time without received bytes.
    IdleInbound = 1,
    /// Time without sent bytes.
    IdleOutbound = 2,
    /// Time without bytes in both directions.
    IdleAny = 4,
    /// Time without activity of the application.
    IdleActivity = 8,
    /// Time for an incomplete frame.
    ReadTimeout = 16,
    /// Period of heartbeats.
    HeartbeatPeriod = 32,
    /// Maximum frame of the codec. Its value is not an attribute.
    MaxFrame = 64,
}

impl ConnectionHandle {
    /// Returns `true` if a layer has the setting and the session is not closing.
    pub(super) fn has_setting(&self, setting: Setting) -> bool {
        let has = self.0.locked.lock().settings & setting as u8 != 0;
        has && !self.is_closing()
    }

    /// Sets the maximum length of a frame of this session, in bytes. The default is the codec's.
    ///
    /// Returns `true` if the session has a codec whose maximum can be changed: its `CodecLayer` has
    /// `with_frame_limit` or `with_settable_max_frame`. Otherwise nothing changes and this method
    /// returns `false`. A closing session cannot be changed either.
    ///
    /// The codec defines what the length includes, and how it treats zero and very large values.
    /// The codecs of getty count a message without its header or line end, reduce a maximum above
    /// 1 GiB to 1 GiB, and apply the maximum in both directions.
    ///
    /// It may be called at any time and from any thread. The session loop is woken and applies the
    /// maximum in its next poll before it decodes anything. Messages behind the one whose handler
    /// calls this method will be decoded with the new maximum. A frame that the session has found
    /// incomplete keeps the maximum with which it began, higher or lower. The last of several calls
    /// wins.
    ///
    /// The bound on undecoded bytes follows. It becomes `bytes` and 1 KiB for a header, or 64 KiB
    /// if that is more. A bound that `CodecLayer::with_max_frame` has set below 64 KiB stays until
    /// a frame may be longer. Limits of the transport do not change, such as the maximum message
    /// of `WsLayer`.
    ///
    /// ```
    /// use getty_core::Connection;
    ///
    /// let connection = Connection::new("no codec yet");
    /// assert!(!connection.handle().set_max_frame(1 << 20));
    /// ```
    pub fn set_max_frame(&self, bytes: usize) -> bool {
        if !self.has_setting(Setting::MaxFrame) {
            return false;
        }
        self.change_hooks(|hooks| {
            hooks.max_frame = Some(bytes);
            hooks.recheck = true;
        });
        true
    }
}
