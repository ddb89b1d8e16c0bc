//! Ranks by Zipf's law: rank k comes k^-s times as often as rank 1.
//!
//! W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
//! distributions", 1996. The law's continuous hull is inverted and the result rounded to a rank,
//! which is refused rarely and exactly often enough: constant memory, constant time, however many
//! ranks there are, where a table would need a word for each.

use super::keys::Random;

/// The law for ranks 1 to `ranks`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    ranks: f64,
    exponent: f64,
    /// The hull's integral where rank 1 begins, its own height 1 taken off, and where the last ends.
    first: f64,
    last: f64,
    /// Closer to its rank than this, a point is always below the hull.
    sure: f64,
}

impl Zipf {
    /// `exponent` above 0, at least one rank.
    pub(crate) fn new(ranks: u64, exponent: f64) -> Self {
        assert!(ranks > 0 && exponent > 0.0, "no such law");
        let mut law = Zipf { ranks: ranks as f64, exponent, first: 0.0, last: 0.0, sure: 0.0 };
        law.first = law.integral(1.5) - 1.0;
        law.last = law.integral(law.ranks + 0.5);
        law.sure = 2.0 - law.inverse(law.integral(2.5) - law.weight(2.0));
        law
    }

    /// A rank, from 1.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        loop {
            // From the last to the first, so that the first is drawn with its full weight.
            let under = self.last + random.unit() * (self.first - self.last);
            let point = self.inverse(under);
            let rank = point.round().clamp(1.0, self.ranks);
            if rank - point <= self.sure || under >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, rank: f64) -> f64 {
        (-self.exponent * rank.ln()).exp()
    }

    /// Of x^-s from 1; written so that exponents around 1 lose no digits.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        growth((1.0 - self.exponent) * log) * log
    }

    fn inverse(&self, integral: f64) -> f64 {
        let bent = (integral * (1.0 - self.exponent)).max(-1.0);
        (flattening(bent) * integral).exp()
    }
}

/// (e^x - 1) / x
fn growth(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

/// ln(1 + x) / x
fn flattening(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 400_000;

    /// How often each of the first ranks is to come.
    fn law(ranks: u64, exponent: f64) -> impl Fn(u64) -> f64 {
        let all: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-exponent)).sum();
        move |rank| (rank as f64).powf(-exponent) / all
    }

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        for exponent in [0.2, 0.99, 1.0, 1.01, 2.5, 10.0] {
            let zipf = Zipf::new(10, exponent);
            let mut random = Random::new(7);
            let mut seen = [0_u32; 10];
            for _draw in 0..DRAWS {
                seen[zipf.draw(&mut random) as usize - 1] += 1;
            }
            let law = law(10, exponent);
            for (rank, seen) in (1..).zip(seen) {
                let expected = law(rank) * DRAWS as f64;
                let off = (f64::from(seen) - expected).abs();
                // Five standard deviations, and room for what comes less than once.
                assert!(off <= 5.0 * expected.sqrt() + 3.0, "s {exponent}, {rank}: {seen}");
            }
        }
    }

    #[test]
    fn many_ranks_need_no_table_and_keep_the_law() {
        const RANKS: u64 = 1_000_000;
        for exponent in [0.99, 1.2] {
            let (zipf, law) = (Zipf::new(RANKS, exponent), law(RANKS, exponent));
            let mut random = Random::new(7);
            let drawn: Vec<u64> = (0..DRAWS).map(|_| zipf.draw(&mut random)).collect();
            assert!(drawn.iter().all(|rank| (1..=RANKS).contains(rank)));
            for bound in [1, 2, 10, 1000, 100_000] {
                let expected = (1..=bound).map(&law).sum::<f64>() * DRAWS as f64;
                let seen = drawn.iter().filter(|rank| **rank <= bound).count() as f64;
                assert!((seen - expected).abs() <= 5.0 * expected.sqrt(), "{exponent} {bound}");
            }
        }
    }

    #[test]
    fn one_rank_is_the_only_one() {
        let mut random = Random::new(7);
        assert!((0..1000).all(|_| Zipf::new(1, 0.99).draw(&mut random) == 1));
    }
}
