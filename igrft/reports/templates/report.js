// A click on a sample frame shows the episode's sample frames larger.
for (const grid of document.querySelectorAll(".samples")) {
  grid.addEventListener("click", (event) => event.target.tagName === "IMG" && grid.classList.toggle("large"));
}

// Shows the values of the frame under the pointer, and a line through all panels.
for (const article of document.querySelectorAll("article")) {
  const chart = article.querySelector("svg.episode");
  const held = article.querySelector("script.series");
  const out = article.querySelector(".readout");
  if (!chart || !held) continue;
  const data = JSON.parse(held.textContent);
  const cursor = chart.querySelector(".cursor");
  const names = {
    reward: "reward", reward_trajectory: "trajectory", reward_subtask: "subtask",
    return_to_go: "return", value: "value", value_trajectory: "its trajectory head", value_subtask: "its subtask head",
    advantage: "advantage", noise_scale: "noise scale", interaction_pixels: "moving pixels", interaction_probability: "interaction probability",
  };
  const cell = (name, value) => {
    const b = document.createElement("b");
    b.textContent = value;
    out.append(out.childNodes.length ? "  ·  " + name + " " : name + " ", b);
  };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * data.width;
    const share = (x - data.left) / (data.right - data.left);
    if (share < 0 || share >= 1) return;
    const frame = Math.min(data.length - 1, Math.floor(share * data.length));
    const at = data.left + ((frame + 0.5) / data.length) * (data.right - data.left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", "visible");
    out.textContent = "";
    cell("frame", frame);
    cell("time", (frame / data.fps).toFixed(2) + " s");
    const here = data.subtasks.find((s) => s[0] <= frame && frame < s[1]);
    if (here) cell("subtask", here[2] + (here[3] === false ? " (not done)" : ""));
    for (const [key, name] of Object.entries(names)) {
      const values = data.series[key];
      if (!values) continue;
      const value = values[Math.min(values.length - 1, Math.floor(frame / data.stride))];
      if (value !== null) cell(name, value.toLocaleString("en", { maximumSignificantDigits: 4 }));
    }
    const flags = data.series.interaction;
    const human = data.series.intervention;
    if (human && human[Math.min(human.length - 1, Math.floor(frame / data.stride))]) cell("driven by", "a human");
    if (flags) cell("interaction", flags[Math.min(flags.length - 1, Math.floor(frame / data.stride))] ? "yes" : "no");
  });
  chart.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    out.textContent = "Point at the chart to read its values.";
  });
}
