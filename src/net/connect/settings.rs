//! Settings that the connectors of TCP and UDP share.

/// Defines the settings of a dial and of the socket's buffers, for a connector with the fields
/// `dialer` and `options`. The connector documents each of them.
macro_rules! dial_settings {
    (
        $(#[$connect_timeout:meta])* with_connect_timeout
        $(#[$local_addr:meta])* with_local_addr
        $(#[$send_buffer_size:meta])* with_send_buffer_size
        $(#[$recv_buffer_size:meta])* with_recv_buffer_size
    ) => {
        $(#[$connect_timeout])*
        #[must_use]
        pub const fn with_connect_timeout(mut self, limit: Duration) -> Self {
            self.dialer.timeout = limit;
            self
        }

        $(#[$local_addr])*
        #[must_use]
        pub const fn with_local_addr(mut self, address: SocketAddr) -> Self {
            self.dialer.local = Some(address);
            self
        }

        $(#[$send_buffer_size])*
        #[must_use]
        pub const fn with_send_buffer_size(mut self, bytes: usize) -> Self {
            self.options.buffers.send = Some(bytes);
            self
        }

        $(#[$recv_buffer_size])*
        #[must_use]
        pub const fn with_recv_buffer_size(mut self, bytes: usize) -> Self {
            self.options.buffers.recv = Some(bytes);
            self
        }
    };
}

pub(crate) use dial_settings;
