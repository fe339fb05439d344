//! What is shared again, and is all there, is only offered.

use crate::lookups::internet;
use crate::network::{private, secs};
use crate::world::{seed, World};

#[test]
fn file_that_is_all_there_is_shared_again_as_fast_and_for_little() {
    for peers in [30, 300] {
        let mut world = World::of(seed(88), internet(), peers, private);
        let data = world.file(16 << 20);
        let share = |world: &mut World| {
            let sent = |world: &World| {
                ["tcp_bytes_sent", "udp_bytes_sent"].map(|key| world.status(0, key))
            };
            let before = sent(world);
            let client = world.begin_share(0, &data, 8);
            let (_, took) = world.finish(client, secs(300));
            let after = sent(world);
            println!(
                "{peers} peers: {took:?}, {} bytes by TCP, {} by UDP",
                after[0] - before[0],
                after[1] - before[1]
            );
            (took, after[0] - before[0])
        };
        let (first, _) = share(&mut world);
        world.run_for(secs(100));
        let (again, sent) = share(&mut world);
        assert!(again <= first, "{again:?}");
        assert!(sent < data.len() as u64 / 100, "{sent}");
    }
}
