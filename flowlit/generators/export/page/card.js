// What a page says of its model.

// Four digits that count, without powers of ten.
function number(value) {
  return Number(Number(value).toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
}

// Fill the list of a card's facts.
export function list(place, { facts, parity, bytes, sha256 }) {
  const [channels, height, width] = facts.outputs.images.shape.slice(1);
  const metrics = facts.metrics.flatMap((report) =>
    Object.entries(report.metrics).map(
      ([name, value]) => `${name} ${value === null ? "not finite" : number(value)} (${report.images?.toLocaleString("en") ?? "?"} images, ${report.report})`,
    ),
  );
  const task = facts.super_resolution;
  const rows = {
    ...(task && { Enlarges: `${task.scale} times what ${task.degradation.class_path.split(".").at(-1)} brought down, by tiles of ${task.tile} pixels that overlap by ${task.overlap}` }),
    Images: `${width} × ${height}, ${channels === 3 ? "RGB" : "grey"}, in ${facts.nfe} evaluation${facts.nfe === 1 ? "" : "s"} of the network`,
    Size: `${facts.parameters.export.toLocaleString("en")} parameters, ${(bytes / 1e6).toPrecision(3)} MB`,
    "Time path": facts.time,
    "Trained on": facts.data?.name ?? "not recorded",
    Licence: facts.licence ?? "not stated",
    Measured: metrics.length ? metrics : "not recorded",
    "Compared with the checkpoint": `${parity.images} images: ${parity.levels.max} of 255 levels at most`,
    Checkpoint: facts.source ? `SHA-256 ${facts.source.sha256}` : "not recorded",
    "This file": `SHA-256 ${sha256}, flowlit ${facts.flowlit}`,
  };
  const entries = Object.entries(rows).flatMap(([name, value]) => {
    const term = document.createElement("dt");
    term.textContent = name;
    return [term, ...[value].flat().map((text) => Object.assign(document.createElement("dd"), { textContent: text }))];
  });
  place.replaceChildren(...entries);
}
