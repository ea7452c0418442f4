// Read the server's metrics in Prometheus' text format.

// Return [{ name, labels, value }, …].
export function parseMetrics(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = line.match(/^([\w:]+)(?:\{(.*)\})? (\S+)$/) ?? [];
    if (name) found.push({ name: name.replace("glassgpt:", ""), labels: Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, each]) => [key, each])), value: Number(value.replace("+Inf", "Infinity")) });
  }
  return found;
}

export function total(metrics, name) {
  return metrics.filter((each) => each.name === name).reduce((sum, { value }) => sum + value, 0);
}

// Return the sums by the value of a label.
export function by(metrics, name, label) {
  const sums = new Map();
  for (const { name: own, labels, value } of metrics) if (own === name) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
  return sums;
}

// Return the counts of a histogram's buckets, all models together: [[upper bound, cumulative count], …].
export function buckets(metrics, name) {
  return [...by(metrics, `${name}_bucket`, "le")].map(([bound, count]) => [bound === "+Inf" ? Infinity : Number(bound), count]).sort((one, other) => one[0] - other[0]);
}

// Return the value below which a share of the observations between two moments lies, or null without observations.
// Between the bounds of a bucket, observations are taken to be spread evenly, as Prometheus does.
export function quantile(share, now, before = []) {
  const earlier = new Map(before);
  const counts = now.map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (!all) return null;
  const at = counts.findIndex(([, count]) => count >= share * all);
  const [low, below] = at ? counts[at - 1] : [0, 0];
  const [high, upTo] = counts[at];
  return high === Infinity ? low : low + (high - low) * (share * all - below) / (upTo - below || 1);
}
