//! Packets between daemon and keeper, and the log of records that the keeper holds for a daemon.

use fornax::adapters::records;
use fornax::core::keeping::{LONGEST, Notice, Order};

pub fn check(data: &[u8]) {
    if let Some(order) = Order::decode(data) {
        assert_eq!(Order::decode(&order.encode()), Some(order));
    }
    if let Some(notice) = Notice::decode(data) {
        assert_eq!(Notice::decode(&notice.encode()), Some(notice));
    }
    let Ok(all) = records::parse(data) else {
        return;
    };
    let whole: usize = all.iter().map(|record| record.len() + 8).sum();
    assert!(whole <= data.len(), "more came out than is in it");
    // Cut anywhere, as by the end of its writer, it gives fewer of the same.
    for cut in [data.len() / 2, data.len().saturating_sub(1)] {
        let fewer = records::parse(&data[..cut]).unwrap_or_default();
        assert!(all.starts_with(&fewer), "cut at {cut}");
    }
    const { assert!(LONGEST < 4096, "a packet is small") };
}
