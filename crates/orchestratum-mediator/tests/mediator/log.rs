//! What this thread logs. One subscriber serves the whole binary: with one for each test, a line that another thread
//! logs first without a subscriber stays switched off.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what each thread logs from now on.
pub(crate) fn keep() {
    static START: Once = Once::new();
    START.call_once(|| tracing_subscriber::fmt().with_writer(|| Writer).with_ansi(false).init());
}

/// The lines of this thread.
pub(crate) fn text() -> String {
    LINES.with_borrow(|lines| String::from_utf8_lossy(lines).into_owned())
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
