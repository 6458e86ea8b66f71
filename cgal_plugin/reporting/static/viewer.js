"use strict";
// A small ball-and-stick view on a 2D canvas: no library, no WebGL, no network.
(function () {
  const source = document.getElementById("viewer-data");
  const canvas = document.getElementById("viewer-canvas");
  if (!source || !canvas || !canvas.getContext) return;
  const data = JSON.parse(source.textContent);
  const context = canvas.getContext("2d");
  const slider = document.getElementById("viewer-frame");
  const caption = document.getElementById("viewer-caption");
  const play = document.getElementById("viewer-play");
  const colours = Object.fromEntries(data.groups);
  const extent = Math.max(...data.frames.map((f) =>
    Math.max(...f.map((p) => Math.hypot(p[0], p[1], p[2])))), 1);
  const start = [1, 0, 0, 0, 1, 0, 0, 0, 1];
  let turn = start.slice(), zoom = 1, frame = 0, timer = null;

  function rotate(ax, ay) {
    const cx = Math.cos(ax), sx = Math.sin(ax), cy = Math.cos(ay), sy = Math.sin(ay);
    const m = [cy, 0, sy, sx * sy, cx, -sx * cy, -cx * sy, sx, cx * cy];
    const out = new Array(9).fill(0);
    for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) for (let k = 0; k < 3; k++)
      out[3 * i + j] += m[3 * i + k] * turn[3 * k + j];
    turn = out;
  }

  function shade(hex, amount) {  // towards white (amount > 0) or black
    const target = amount > 0 ? 255 : 0, a = Math.abs(amount);
    const part = (i) => Math.round(parseInt(hex.slice(i, i + 2), 16) * (1 - a) + target * a);
    return `rgb(${part(1)},${part(3)},${part(5)})`;
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const scale = zoom * 0.48 * Math.min(width, height) / extent;
    const radius = 1.25 * scale;
    const points = data.frames[frame].map((p) => {
      const x = turn[0] * p[0] + turn[1] * p[1] + turn[2] * p[2];
      const y = turn[3] * p[0] + turn[4] * p[1] + turn[5] * p[2];
      const z = turn[6] * p[0] + turn[7] * p[1] + turn[8] * p[2];
      return [width / 2 + x * scale, height / 2 - y * scale, z];
    });
    const fog = (z) => 0.45 * Math.max(0, Math.min(1, (extent - z) / (2 * extent)));
    const items = data.bonds.map((b) => ({ z: (points[b[0]][2] + points[b[1]][2]) / 2 - 0.6, bond: b }));
    points.forEach((p, i) => items.push({ z: p[2], bead: i }));
    items.sort((a, b) => a.z - b.z);
    for (const item of items) {
      if (item.bond) {
        const [p, q] = item.bond.map((i) => points[i]);
        // a bond ends at the beads' surfaces, so that it does not run over their letters
        const length = Math.hypot(q[0] - p[0], q[1] - p[1], (q[2] - p[2]) * scale) || 1;
        const cut = Math.min(0.45, 0.85 * radius / length);
        const a = [p[0] + cut * (q[0] - p[0]), p[1] + cut * (q[1] - p[1])];
        const b = [q[0] - cut * (q[0] - p[0]), q[1] - cut * (q[1] - p[1])];
        context.strokeStyle = shade("#4b5563", fog(item.z));
        context.lineWidth = Math.max(2, 0.5 * scale);
        context.lineCap = "butt";
        context.beginPath(); context.moveTo(a[0], a[1]); context.lineTo(b[0], b[1]); context.stroke();
        continue;
      }
      const [x, y, z] = points[item.bead], bead = data.beads[item.bead];
      const r = radius * (bead.letter ? 1 : 0.75), base = shade(colours[bead.group], fog(z));
      const light = context.createRadialGradient(x - 0.35 * r, y - 0.4 * r, 0.1 * r, x, y, r);
      light.addColorStop(0, shade(colours[bead.group], Math.min(0.9, fog(z) + 0.45)));
      light.addColorStop(0.75, base);
      light.addColorStop(1, shade(colours[bead.group], fog(z) - 0.25));
      context.fillStyle = light;
      context.beginPath(); context.arc(x, y, r, 0, 2 * Math.PI); context.fill();
      context.strokeStyle = "rgba(17,24,39,0.45)"; context.lineWidth = 1; context.stroke();
      if (bead.letter && r > 8) {
        context.fillStyle = "#111827";
        context.font = `600 ${Math.round(Math.min(16, 0.95 * r))}px system-ui, sans-serif`;
        context.textAlign = "center"; context.textBaseline = "middle";
        context.fillText(bead.letter, x, y + 0.5);
      }
    }
    const info = data.info[frame];
    const parts = [`frame ${frame + 1} of ${data.frames.length}`, `round ${info.round}`,
      info.rmsd === null ? "nearest RMSD not known" : `nearest RMSD ${info.rmsd.toFixed(2)} Å`];
    if (info.label) parts.push(info.label);
    caption.textContent = parts.join(" · ");
    canvas.setAttribute("aria-label", "Selected frame in 3D: " + parts.join(", "));
    slider.value = frame;
  }

  function show(next) { frame = (next + data.frames.length) % data.frames.length; draw(); }
  function stop() { if (timer) { clearInterval(timer); timer = null; play.textContent = "Play"; } }

  slider.max = data.frames.length - 1;
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  document.getElementById("viewer-previous").addEventListener("click", () => { stop(); show(frame - 1); });
  document.getElementById("viewer-next").addEventListener("click", () => { stop(); show(frame + 1); });
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    timer = setInterval(() => show(frame + 1), 700);
    play.textContent = "Stop";
  });
  document.getElementById("viewer-closer").addEventListener("click", () => { zoom = Math.min(6, zoom * 1.2); draw(); });
  document.getElementById("viewer-farther").addEventListener("click", () => { zoom = Math.max(0.3, zoom / 1.2); draw(); });
  document.getElementById("viewer-reset").addEventListener("click", () => {
    stop(); turn = start.slice(); rotate(0.3, 0.4); zoom = 1; draw();
  });
  let held = null;
  canvas.addEventListener("pointerdown", (e) => { held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (e) => {
    if (!held) return;
    rotate((e.clientY - held[1]) * 0.01, (e.clientX - held[0]) * 0.01);
    held = [e.clientX, e.clientY]; draw();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: [0, -0.1], ArrowRight: [0, 0.1], ArrowUp: [-0.1, 0], ArrowDown: [0.1, 0] }[e.key];
    if (!step) return;
    e.preventDefault(); rotate(step[0], step[1]); draw();
  });
  window.addEventListener("resize", draw);
  rotate(0.3, 0.4);
  draw();
})();
