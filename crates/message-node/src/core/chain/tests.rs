//! A chain that is asked, reorganised and broken.

use super::*;

const A: Account = [0xa; 20];
const B: Account = [0xb; 20];

/// What an RPC node knows: blocks with what happens in them.
struct World {
    /// For each block its hash, who took part in transfers in it, and the balances after it.
    blocks: Vec<(u8, Vec<Account>, HashMap<Account, u32>)>,
    /// Blocks that are told at once, at most.
    most_blocks: u64,
    /// Balances that are told at once, at most.
    most_balances: usize,
    asked: Vec<Request>,
}

impl World {
    fn new(length: u8) -> Self {
        let blocks = (0..length).map(|n| (n, Vec::new(), HashMap::new())).collect();
        Self { blocks, most_blocks: 1000, most_balances: 1000, asked: Vec::new() }
    }

    /// A block is added after which an account has this.
    fn pay(&mut self, hash: u8, account: Account, tokens: u32) {
        let mut balances = self.blocks.last().map(|(_, _, balances)| balances.clone()).unwrap_or_default();
        balances.insert(account, tokens);
        self.blocks.push((hash, vec![account], balances));
    }

    fn block(&self, number: u64) -> Option<Block> {
        let (hash, ..) = self.blocks.get(usize::try_from(number).ok()?)?;
        Some(Block { number, hash: [*hash; 32], time: number })
    }

    fn answer(&mut self, request: &Request) -> Result<Reply, Trouble> {
        self.asked.push(request.clone());
        Ok(match request {
            Request::Head => Reply::Head(self.blocks.len() as u64 - 1),
            Request::Block(number) => Reply::Block(self.block(*number)),
            Request::Transfers { from, to } => {
                if to.number - from + 1 > self.most_blocks {
                    return Err(Trouble::Refused("too many blocks".into()));
                }
                let range = usize::try_from(*from).unwrap()..=usize::try_from(to.number).unwrap();
                Reply::Transfers(self.blocks[range].iter().flat_map(|(_, touched, _)| touched.clone()).collect())
            }
            Request::Balances { at, of } => {
                if of.len() > self.most_balances {
                    return Err(Trouble::Refused("too many balances".into()));
                }
                let found = self.blocks.iter().find(|(hash, ..)| [*hash; 32] == *at);
                let Some((.., balances)) = found else { return Err(Trouble::Refused("no such block".into())) };
                Reply::Balances(of.iter().map(|a| balances.get(a).copied().unwrap_or(0).into()).collect())
            }
        })
    }

    /// A whole round; gives whose balance came to be known or changed.
    fn round(&mut self, chain: &mut Chain) -> Vec<Account> {
        chain.begin();
        let mut changed = Vec::new();
        while let Some(request) = chain.request() {
            let answer = self.answer(&request);
            changed.extend(chain.take(answer));
            assert!(self.asked.len() < 1000, "it does not end");
        }
        changed
    }
}

fn tokens(tokens: u32) -> Holding {
    Holding::Tokens(tokens.into())
}

fn passing(chain: &mut Chain, account: Account) -> Holding {
    chain.holding(account, Interest::Passing)
}

#[test]
fn a_balance_is_unknown_until_it_was_read_at_a_deep_enough_block() {
    let (mut world, mut chain) = (World::new(1), Chain::new(2, 10));
    world.pay(1, A, 2000);
    assert_eq!(passing(&mut chain, A), Holding::Unknown);
    assert!(world.round(&mut chain).is_empty());
    assert_eq!(
        chain.health().trouble,
        Some("the chain has 1 blocks, and 2 have to be on top of one that counts".into())
    );
    world.pay(2, A, 3000);
    assert_eq!(world.round(&mut chain), [A]);
    assert_eq!((passing(&mut chain, A), chain.health().trouble), (tokens(0), None), "block 0 counts");
}

#[test]
fn transfers_count_when_they_are_deep_enough() {
    let (mut world, mut chain) = (World::new(3), Chain::new(1, 10));
    world.pay(50, A, 2000);
    passing(&mut chain, A);
    assert_eq!(world.round(&mut chain), [A]);
    assert_eq!(passing(&mut chain, A), tokens(0), "the newest block does not count");
    world.pay(51, B, 7);
    assert_eq!(world.round(&mut chain), [A]);
    assert_eq!(passing(&mut chain, A), tokens(2000));
    world.pay(52, A, 1999);
    world.asked.clear();
    assert!(world.round(&mut chain).is_empty(), "B took part, and nobody wants to know");
    assert!(!world.asked.iter().any(|asked| matches!(asked, Request::Balances { .. })));
    world.pay(53, A, 1998);
    assert_eq!(world.round(&mut chain), [A]);
    assert_eq!(passing(&mut chain, A), tokens(1999));
    assert_eq!(chain.health().trouble, None);
    world.asked.clear();
    world.round(&mut chain);
    assert_eq!(world.asked.len(), 2, "where nothing is new, nothing is read: {:?}", world.asked);
}

#[test]
fn a_reorganisation_is_noticed_wherever_it_reaches_and_nothing_is_zero_meanwhile() {
    for longer in [false, true] {
        let (mut world, mut chain) = (World::new(3), Chain::new(0, 10));
        world.pay(50, A, 2000);
        passing(&mut chain, A);
        world.round(&mut chain);
        assert_eq!(passing(&mut chain, A), tokens(2000));
        // Another block takes the place of the one that everything is as of.
        world.blocks.pop();
        world.pay(60, B, 2000);
        if longer {
            world.pay(61, B, 2001);
        }
        chain.begin();
        while let Some(request) = chain.request() {
            if !matches!(request, Request::Balances { .. }) {
                assert_eq!(passing(&mut chain, A), tokens(2000), "the last known balance stays in force");
            }
            let answer = world.answer(&request);
            chain.take(answer);
        }
        assert_eq!(passing(&mut chain, A), tokens(0), "it was sent to B on the chain that won");
        assert_eq!(chain.health().reorganisations, 1);
    }
}

#[test]
fn a_reorganisation_in_the_middle_of_a_round_is_no_mixture() {
    let (mut world, mut chain) = (World::new(3), Chain::new(0, 10));
    world.pay(50, A, 1);
    passing(&mut chain, A);
    world.round(&mut chain);
    world.pay(51, B, 1);
    chain.begin();
    while let Some(request) = chain.request() {
        let answer = world.answer(&request);
        chain.take(answer);
        if matches!(request, Request::Transfers { .. }) {
            world.blocks.pop();
            world.pay(61, A, 5);
        }
    }
    assert_eq!(chain.health().trouble, Some("the chain was reorganised while it was read".into()));
    assert_eq!(chain.health().at.map(|at| at.number), Some(3), "nothing of that counts");
    assert_eq!(world.round(&mut chain), [A]);
    assert_eq!(passing(&mut chain, A), tokens(5));
}

#[test]
fn gaps_are_read_in_parts_and_in_smaller_ones_when_that_is_refused() {
    let (mut world, mut chain) = (World::new(3), Chain::new(0, 10));
    passing(&mut chain, A);
    world.round(&mut chain);
    for n in 10..30 {
        world.pay(n, A, n.into());
    }
    world.most_blocks = 3;
    world.asked.clear();
    assert_eq!(world.round(&mut chain), [A]);
    assert_eq!(passing(&mut chain, A), tokens(29));
    let transfers: u64 = world
        .asked
        .iter()
        .filter_map(|asked| match asked {
            Request::Transfers { from, to } if to.number - from < 3 => Some(to.number - from + 1),
            _ => None,
        })
        .sum();
    assert_eq!(transfers, 20, "every block once, and none left out");
    // Not even one block at a time: everything is read again.
    world.most_blocks = 0;
    world.pay(40, A, 40);
    assert_eq!(world.round(&mut chain), [A]);
    assert_eq!(passing(&mut chain, A), tokens(40));
}

#[test]
fn after_a_very_long_pause_everything_is_read_again() {
    let (mut world, mut chain) = (World::new(3), Chain::new(0, 10));
    passing(&mut chain, A);
    world.round(&mut chain);
    let far = 3 + CATCH_UP;
    chain.begin();
    let block = Block { number: far, hash: [9; 32], time: 0 };
    let answers = [Reply::Head(far), Reply::Block(Some(block)), Reply::Balances(vec![Decimal::ONE])];
    for answer in answers {
        assert!(!matches!(chain.request(), Some(Request::Transfers { .. })));
        chain.take(Ok(answer));
    }
    assert_eq!((passing(&mut chain, A), chain.health().at), (tokens(1), Some(block)));
    assert_eq!(chain.health().reorganisations, 0);
}

#[test]
fn trouble_at_any_step_leaves_what_is_known_and_the_next_round_goes_on() {
    for broken in 0..7 {
        for trouble in [Trouble::Failed("dead".into()), Trouble::Refused("no".into())] {
            let (mut world, mut chain) = (World::new(3), Chain::new(0, 10));
            world.pay(50, A, 2000);
            passing(&mut chain, A);
            world.round(&mut chain);
            world.pay(51, A, 1999);
            chain.begin();
            let mut step = 0;
            while let Some(request) = chain.request() {
                let answer = if step == broken { Err(trouble.clone()) } else { world.answer(&request) };
                chain.take(answer);
                step += 1;
            }
            assert!(matches!(passing(&mut chain, A), Holding::Tokens(_)), "{broken}");
            assert_eq!(chain.health().trouble.is_some(), chain.health().failures > 0);
            world.round(&mut chain);
            assert_eq!(passing(&mut chain, A), tokens(1999), "{broken}");
            assert_eq!(chain.health().trouble, None);
        }
    }
}

#[test]
fn a_node_that_is_behind_or_confused_changes_nothing() {
    let (mut world, mut chain) = (World::new(5), Chain::new(0, 10));
    passing(&mut chain, A);
    world.round(&mut chain);
    let mut behind = World::new(3);
    behind.round(&mut chain);
    assert!(chain.health().trouble.unwrap().contains("behind"));
    assert_eq!(chain.health().at.map(|at| at.number), Some(4));
    for wrong in [Reply::Block(None), Reply::Head(1)] {
        chain.begin();
        chain.take(Ok(Reply::Head(6)));
        chain.take(Ok(wrong));
        assert_eq!(chain.request(), None);
        assert!(chain.health().trouble.is_some());
    }
    assert_eq!(passing(&mut chain, A), tokens(0));
}

#[test]
fn balances_are_read_in_smaller_parts_when_many_are_refused_and_one_bad_one_keeps_nobody() {
    let (mut world, mut chain) = (World::new(1), Chain::new(0, 100));
    for n in 100..120 {
        passing(&mut chain, [n; 20]);
    }
    world.most_balances = 3;
    assert_eq!(world.round(&mut chain).len(), 20);
    passing(&mut chain, A);
    passing(&mut chain, B);
    world.most_balances = 0;
    assert!(world.round(&mut chain).is_empty());
    assert_eq!(chain.health().trouble, Some("too many balances".into()));
    world.most_balances = 1;
    assert_eq!(world.round(&mut chain), [B, A], "the one that failed comes last");
}

#[test]
fn everybody_gets_its_own_balance_when_accounts_are_forgotten_while_they_are_asked_about() {
    let (mut world, mut chain) = (World::new(1), Chain::new(0, 4));
    let account = |n: u8| [n; 20];
    for n in 100..107 {
        world.pay(n, account(n), n.into());
    }
    for n in 100..104 {
        passing(&mut chain, account(n));
    }
    chain.begin();
    let mut others = 104..107;
    while let Some(request) = chain.request() {
        let answer = world.answer(&request);
        if matches!(request, Request::Balances { .. }) {
            // The first ones make room for these.
            for n in others.by_ref() {
                passing(&mut chain, account(n));
            }
        }
        chain.take(answer);
    }
    world.round(&mut chain);
    let known: HashMap<Account, Decimal> = chain.known().map(|(account, balance)| (*account, balance)).collect();
    assert_eq!((known.len(), chain.health().unread), (4, 0));
    for (account, balance) in known {
        assert_eq!(balance, Decimal::from(account[0]), "{account:?}");
    }
}

#[test]
fn accounts_without_anything_in_force_are_forgotten_when_there_are_many() {
    let (mut world, mut chain) = (World::new(1), Chain::new(0, 8));
    chain.holding(A, Interest::Lasting);
    passing(&mut chain, B);
    chain.holding(B, Interest::Lasting);
    for n in 100..200 {
        passing(&mut chain, [n; 20]);
        assert!(chain.health().accounts <= 10);
        assert_eq!(chain.health().unread, chain.health().accounts);
    }
    world.round(&mut chain);
    assert_eq!((passing(&mut chain, A), passing(&mut chain, B)), (tokens(0), tokens(0)));
    assert_eq!(passing(&mut chain, [199; 20]), tokens(0), "the newest are known");
    assert_eq!(passing(&mut chain, [100; 20]), Holding::Unknown, "the oldest are not");
    chain.release(&A);
    chain.release(&A);
    for n in 0..9 {
        passing(&mut chain, [n; 20]);
    }
    assert_eq!(passing(&mut chain, B), tokens(0));
    assert_eq!(passing(&mut chain, A), Holding::Unknown, "it has nothing in force any more");
}
