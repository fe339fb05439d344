//! Days of coming and going: what is lost, and what is moved so that nothing is. Each is a row of the README's table.

use crate::network::secs;
use crate::survival::{Placing, Sessions, Survival, Trial, EXPONENTIAL, LIFETIME, WEIBULL};
use crate::world::{number, seed};
use strew::block::Role;
use strew::limits::K;

/// A day of churn; prints a line. Blocks lost, and copies moved of each.
fn day(trial: &Trial, seed: u64) -> (usize, f64) {
    let hours = number("STREW_HOURS").unwrap_or(24);
    let began = std::time::Instant::now();
    let mut survival = Survival::new(trial, seed);
    let (mut least, mut away) = (K, 0);
    for hour in 1..=hours {
        survival.run_for(secs(3600));
        if hour % 6 == 0 || hour == hours {
            let count = survival.count();
            let moved = survival.moved() as f64 / trial.blocks as f64;
            println!(
                "    {hour} h: {} peers, moved {moved:.2}, {count:?}, {} datagrams; {:.0?}",
                survival.world.alive().count(),
                survival.world.datagrams(),
                began.elapsed(),
            );
            least = least.min(count.copies.iter().position(|&it| it > 0).unwrap_or(K));
            away = away.max(count.away);
        }
    }
    let count = survival.count();
    let blocks = trial.blocks as f64;
    let copies = count.copies.iter().zip(0..);
    let mean = copies.map(|(&it, n)| it * n).sum::<usize>() as f64 / blocks;
    let moved = survival.moved() as f64 / blocks;
    println!(
        "{} copies with the {:?}, {:?}: {} of {} blocks lost; {moved:.2} copies moved of each; at the end {mean:.2} \
         copies, seen at least {least}; {away} blocks were away at once at most",
        trial.copies, trial.placing, trial.sessions, count.lost, trial.blocks,
    );
    (count.lost, moved)
}

fn trial(copies: usize, sessions: Sessions, placing: Placing) -> Trial {
    let number = |name, default| number(name).map_or(default, |it| it as usize);
    Trial {
        peers: number("STREW_PEERS", 1000),
        blocks: number("STREW_BLOCKS", 200_000),
        role: Role::Leaf,
        copies,
        sessions,
        placing,
        lifetime: LIFETIME,
    }
}

/// Blocks lost and copies moved of each at most: by a thousand peers with 200,000 blocks, and by 300 with 10,000.
type Bounds = [(usize, f64); 2];

/// A row of the README's table. What is lost and moved is bounded at those two sizes; another size, span or seed is
/// only measured.
fn row(copies: usize, sessions: Sessions, bounds: Bounds) {
    let trial = trial(copies, sessions, Placing::Oldest);
    let (lost, moved) = day(&trial, seed(60));
    if ["STREW_SEED", "STREW_HOURS"].map(number) != [None, None] {
        return;
    }
    let (lost_max, moved_max) = match (trial.peers, trial.blocks) {
        (1000, 200_000) => bounds[0],
        (300, 10_000) => bounds[1],
        _ => return,
    };
    assert!(lost <= lost_max, "{lost} lost");
    assert!(moved <= moved_max, "{moved:.2} copies moved of each");
}

#[test]
#[ignore = "long: make sim"]
fn day_of_churn_loses_no_block_of_eight_copies() {
    row(8, WEIBULL, [(0, 6.3), (0, 6.6)]);
}

#[test]
#[ignore = "long: make sim"]
fn day_of_churn_from_a_random_placing_loses_no_block() {
    let (lost, _) = day(&trial(8, WEIBULL, Placing::Random), seed(60));
    assert_eq!(lost, 0);
}

#[test]
#[ignore = "long: make sim"]
fn day_of_churn_loses_no_block_of_five_copies() {
    row(5, WEIBULL, [(0, 3.7), (0, 3.9)]);
}

#[test]
#[ignore = "long: make sim"]
fn day_of_churn_loses_no_block_of_three_copies() {
    row(3, WEIBULL, [(0, 2.0), (0, 1.8)]);
}

#[test]
#[ignore = "long: make sim"]
fn day_of_exponential_churn_loses_no_block_of_eight_copies() {
    row(8, EXPONENTIAL, [(0, 11.6), (0, 12.5)]);
}

#[test]
#[ignore = "long: make sim"]
fn day_of_exponential_churn_loses_no_block_of_five_copies() {
    row(5, EXPONENTIAL, [(0, 7.8), (0, 8.4)]);
}

#[test]
#[ignore = "long: make sim"]
fn day_of_exponential_churn_loses_few_blocks_of_three_copies() {
    row(3, EXPONENTIAL, [(120, 4.6), (5, 4.9)]);
}
