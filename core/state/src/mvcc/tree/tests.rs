//! The tree against `BTreeMap`: contents, ranks, statistics, and that clones stay as they were.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Pairs by their first half; the second halves are summed.
struct Pairs;

impl Order for Pairs {
    type Entry = (u16, i64);
    type Key<'a> = u16;
    type Bound = u16;
    type Sum = Total;
    /// Hundreds, so that bases change and keys fall outside.
    type Base = u16;

    fn base(first: u16, last: u16) -> u16 {
        if first / 100 == last / 100 { 1 + first / 100 } else { 0 }
    }
    fn head(key: u16, base: u16) -> u32 {
        // Coarse, so that heads tie.
        if base == 0 { u32::from(key / 50) } else { u32::from(key % 100 / 7) }
    }
    fn fits_all(base: u16) -> bool {
        base == 0
    }
    fn place(key: u16, base: u16, witness: u16) -> Ordering {
        assert_eq!(witness / 100, base - 1, "the witness has what the base leaves out");
        (key / 100).cmp(&(base - 1))
    }

    fn key(entry: &(u16, i64)) -> u16 {
        entry.0
    }
    fn bound(key: u16) -> u16 {
        key
    }
    fn bound_key(bound: &u16) -> u16 {
        *bound
    }
    fn compare(a: u16, b: u16) -> Ordering {
        a.cmp(&b)
    }
    fn sum(entry: &(u16, i64)) -> Total {
        Total(entry.1)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total(i64);

impl AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}
impl SubAssign for Total {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}
impl Sum for Total {}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, i64),
    Remove(u16),
    /// Ascending keys from here, as a log is written.
    Append(u16, u8),
    RemoveRange(u16, u16),
    /// Keep the tree as it is now and compare it at the end.
    Keep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..2_000_u16;
    let step = prop_oneof![
        8 => (key.clone(), 0..3_i64).prop_map(|(key, value)| Step::Insert(key, value)),
        6 => key.clone().prop_map(Step::Remove),
        2 => (key.clone(), any::<u8>()).prop_map(|(key, count)| Step::Append(key, count)),
        1 => (key, 0..400_u16).prop_map(|(key, width)| Step::RemoveRange(key, width)),
        1 => Just(Step::Keep),
    ];
    vec(step, 1..400)
}

fn verify_heads<'a, O: Order>(heads: &Heads<O>, keys: impl Iterator<Item = O::Key<'a>>) {
    assert!(keys.map(|key| O::head(key, heads.base)).eq(heads.heads.iter().copied()));
}

/// Counts, sums and order below a node; panics on a malformed one. Returns its depth.
fn verify<O: Order>(node: &Node<O>, len: usize) -> usize {
    match node {
        Node::Leaf(leaf) => {
            assert!(!leaf.entries.is_empty() && leaf.entries.len() == len);
            verify_heads(&leaf.heads, leaf.entries.iter().map(O::key));
            assert!(leaf.entries.is_sorted_by(|a, b| O::compare(O::key(a), O::key(b)).is_lt()));
            1
        }
        Node::Branch(branch) => {
            assert!(!branch.children.is_empty());
            assert_eq!(branch.children.len(), branch.bounds.keys.len());
            verify_heads(&branch.bounds.heads, branch.bounds.keys[1..].iter().map(O::bound_key));
            assert_eq!(branch.children.iter().map(|child| child.len).sum::<usize>(), len);
            for at in 1..branch.children.len() {
                let bound = O::bound_key(&branch.bounds.keys[at]);
                let below = O::key(branch.children[at - 1].node.last());
                assert!(O::compare(below, bound).is_lt());
                let first = first(&branch.children[at].node);
                assert!(O::compare(O::key(first), bound).is_ge());
            }
            let depths: Vec<usize> =
                branch.children.iter().map(|child| verify(&child.node, child.len)).collect();
            assert!(depths.iter().all(|depth| *depth == depths[0]), "uneven depth");
            depths[0] + 1
        }
    }
}

fn first<O: Order>(mut node: &Node<O>) -> &O::Entry {
    loop {
        match node {
            Node::Leaf(leaf) => return &leaf.entries[0],
            Node::Branch(branch) => node = &branch.children[0].node,
        }
    }
}

fn depth<O: Order>(tree: &Tree<O>) -> usize {
    tree.root.as_ref().map_or(0, |root| verify(root, tree.len))
}

fn compare(tree: &Tree<Pairs>, model: &BTreeMap<u16, i64>) {
    depth(tree);
    assert_eq!(tree.len(), model.len());
    assert_eq!(tree.is_empty(), model.is_empty());
    assert_eq!(tree.sum(), Total(model.values().sum()));
    assert!(tree.iter().copied().eq(model.iter().map(|(key, value)| (*key, *value))));
    assert_eq!(tree.last().copied(), model.last_key_value().map(|(key, value)| (*key, *value)));
    for key in (0..2_300).step_by(37) {
        let pair = |(key, value): (&u16, &i64)| (*key, *value);
        assert_eq!(tree.get(key).map(|entry| entry.1), model.get(&key).copied());
        assert_eq!(tree.rank(key), model.range(..key).count());
        assert_eq!(tree.sum_before(key), Total(model.range(..key).map(|(_, value)| value).sum()));
        assert_eq!(tree.last_before(key).copied(), model.range(..key).next_back().map(pair));
        assert!(tree.iter_from(key).copied().eq(model.range(key..).map(pair)));

        let mut rest = tree.iter_from(key);
        let found = std::iter::from_fn(|| rest.next_where(|sum| sum.0 > 0)).copied();
        assert!(found.eq(model.range(key..).map(pair).filter(|(_, value)| *value > 0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_holds_what_a_sorted_map_holds_and_its_clones_never_change(steps in steps()) {
        let (mut tree, mut model) = (Tree::<Pairs>::default(), BTreeMap::new());
        let mut kept = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    let replaced = tree.insert((key, value)).map(|entry| entry.1);
                    prop_assert_eq!(replaced, model.insert(key, value));
                }
                Step::Remove(key) => {
                    prop_assert_eq!(tree.remove(key).map(|entry| entry.1), model.remove(&key));
                }
                Step::Append(key, count) => {
                    for key in key..key + u16::from(count) {
                        tree.insert((key, 1));
                        model.insert(key, 1);
                    }
                }
                Step::RemoveRange(key, width) => {
                    for key in key..key + width {
                        prop_assert_eq!(tree.remove(key).is_some(), model.remove(&key).is_some());
                    }
                }
                Step::Keep => kept.push((tree.clone(), model.clone())),
            }
        }
        kept.push((tree, model));
        for (tree, model) in &kept {
            compare(tree, model);
        }
    }
}

fn nodes<O: Order>(node: &Node<O>) -> usize {
    match node {
        Node::Leaf(_) => 1,
        Node::Branch(branch) => branch.children.iter().map(|child| nodes(&child.node)).sum(),
    }
}

#[test]
fn ascending_inserts_fill_leaves_completely() {
    let mut tree = Tree::<Pairs>::default();
    (0..10_000).for_each(|key| assert!(tree.insert((key, 1)).is_none()));
    let leaves = nodes(tree.root.as_ref().unwrap());
    assert_eq!(leaves, 10_000_usize.div_ceil(NODE_WIDTH));
    assert_eq!(depth(&tree), 3);
}

#[test]
fn a_tree_built_at_once_is_a_full_one_that_can_be_changed() {
    let widths = [0, 1, 31, 32, 33, 1_023, 1_024, 1_025, 32_768, 32_769, 40_000];
    for width in widths {
        let model: BTreeMap<u16, i64> = (0..width).map(|key| (key, i64::from(key) % 3)).collect();
        let mut builder = Builder::<Pairs>::default();
        model.iter().for_each(|(key, value)| builder.push((*key, *value)));
        let mut tree = builder.finish();
        depth(&tree);
        assert_eq!(tree.len(), model.len());
        assert_eq!(tree.sum(), Total(model.values().sum()));
        assert!(tree.iter().copied().eq(model.iter().map(|(key, value)| (*key, *value))));
        let leaves = tree.root.as_ref().map_or(0, nodes);
        assert_eq!(leaves, usize::from(width).div_ceil(NODE_WIDTH));
        for key in (0..width).step_by(7) {
            assert_eq!(tree.rank(key), usize::from(key));
            assert_eq!(tree.remove(key).map(|it| it.0), Some(key));
            assert_eq!(tree.insert((key, 5)), None);
        }
        assert_eq!(tree.insert((u16::MAX, 1)), None);
        depth(&tree);
        assert_eq!(tree.len(), model.len() + 1);
    }
}

#[test]
fn a_tree_is_built_of_parts_of_its_leaves() {
    let part = |keys: std::ops::Range<u16>| {
        let mut leaves = Leaves::<Pairs>::default();
        keys.for_each(|key| leaves.push((key, 1)));
        leaves
    };
    for ends in [[0, 0, 0], [0, 1, 1], [33, 33, 64], [1_024, 1_025, 40_000], [31, 20_000, 20_000]] {
        let mut builder = Builder::<Pairs>::default();
        let mut from = 0;
        for end in ends {
            builder.extend(part(from..end));
            from = end;
        }
        // One that goes on with what the last part has left.
        builder.push((from, 1));
        let mut tree = builder.finish();
        depth(&tree);
        assert!(tree.iter().copied().eq((0..=from).map(|key| (key, 1))));
        assert_eq!((tree.len(), tree.sum()), (usize::from(from) + 1, Total(i64::from(from) + 1)));
        for key in (0..from).step_by(7) {
            assert_eq!(tree.rank(key), usize::from(key));
            assert_eq!(tree.remove(key), Some((key, 1)));
            assert_eq!(tree.insert((key, 5)), None);
        }
        depth(&tree);
    }
    let mut builder = Builder::<Pairs>::default();
    [part(0..100), part(0..0)].into_iter().for_each(|leaves| builder.extend(leaves));
    assert_eq!(builder.finish().len(), 100, "what holds nothing takes nothing away");
}

#[test]
fn a_tree_shrinks_with_what_it_holds() {
    let mut tree = Tree::<Pairs>::default();
    (0..20_000).for_each(|key| assert!(tree.insert((key, 1)).is_none()));
    (0..20_000).filter(|key| key % 20 != 0).for_each(|key| assert!(tree.remove(key).is_some()));
    assert_eq!(tree.len(), 1_000);
    let leaves = nodes(tree.root.as_ref().unwrap());
    assert!(leaves * NODE_WIDTH / 4 <= 1_000 * 2, "{leaves} leaves for 1,000 entries");
    (0..20_000).for_each(|key| _ = tree.remove(key));
    assert!(tree.root.is_none());
}

#[test]
fn removing_what_is_not_there_copies_nothing() {
    let mut tree = Tree::<Pairs>::default();
    (0..1_000).for_each(|key| assert!(tree.insert((key * 2, 1)).is_none()));
    let clone = tree.clone();
    assert_eq!(tree.remove(501), None);
    let (Some(Node::Branch(one)), Some(Node::Branch(other))) = (&tree.root, &clone.root) else {
        panic!("1,000 entries need a branch");
    };
    assert!(Arc::ptr_eq(one, other));
}

thread_local! {
    /// Keys looked at by this test's thread.
    static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
}

/// Numbers that count how often one is looked at.
struct Counted;

impl Order for Counted {
    type Entry = u32;
    type Key<'a> = u32;
    type Bound = u32;
    type Sum = Total;
    type Base = u32;

    fn base(_: u32, _: u32) -> u32 {
        0
    }
    fn head(key: u32, _: u32) -> u32 {
        key / 8
    }
    fn fits_all(_: u32) -> bool {
        true
    }
    fn place(_: u32, _: u32, _: u32) -> Ordering {
        Ordering::Equal
    }
    fn key(entry: &u32) -> u32 {
        LOOKED_AT.set(LOOKED_AT.get() + 1);
        *entry
    }
    fn bound(key: u32) -> u32 {
        key
    }
    fn bound_key(bound: &u32) -> u32 {
        LOOKED_AT.set(LOOKED_AT.get() + 1);
        *bound
    }
    fn compare(a: u32, b: u32) -> Ordering {
        a.cmp(&b)
    }
    fn sum(_: &u32) -> Total {
        Total(1)
    }
}

#[test]
fn a_rank_looks_at_few_keys_however_many_there_are() {
    let mut tree = Tree::<Counted>::default();
    let mut most = Vec::new();
    for count in [1_000_u32, 100_000] {
        for key in tree.len() as u32..count {
            tree.insert(key);
        }
        let worst = (0..count).step_by(97).map(|key| {
            LOOKED_AT.set(0);
            assert_eq!(tree.rank(key), key as usize);
            let ranked = LOOKED_AT.replace(0);
            assert_eq!(tree.sum_before(key).0, i64::from(key));
            ranked.max(LOOKED_AT.get())
        });
        most.push(worst.max().expect("ranks"));
    }
    // A hundred times the keys: a level or two more.
    assert!(most[0] > 0 && most[1] <= 2 * most[0], "{most:?}");
}
