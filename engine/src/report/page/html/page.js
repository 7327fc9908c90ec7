(function () {
  "use strict";
  var tip = document.getElementById("tip");

  function short(value) {
    if (value === 0) return "0";
    var size = Math.abs(value);
    if (size < 1e-4 || size >= 1e6) return value.toExponential(2);
    return String(parseFloat(value.toPrecision(4)));
  }

  function written(value, form) {
    if (form === "percent") return (100 * value).toFixed(1) + " %";
    if (form === "whole") return String(Math.round(value));
    return short(value);
  }

  function plotOf(svg) {
    if (!svg.numbers) {
      var script = svg.parentNode.querySelector("script[type='application/json']");
      svg.numbers = JSON.parse(script.textContent);
    }
    return svg.numbers;
  }

  // A value's place in the drawing's own units.
  function place(plot, point) {
    var box = plot.box;
    return [
      box[0] + (point[0] - plot.x[0]) / (plot.x[1] - plot.x[0]) * (box[2] - box[0]),
      box[3] - (point[1] - plot.y[0]) / (plot.y[1] - plot.y[0]) * (box[3] - box[1])
    ];
  }

  function nearest(plot, x, y) {
    var best = null, least = Infinity;
    plot.series.forEach(function (series, s) {
      series.points.forEach(function (point, p) {
        var at = place(plot, point), dx = at[0] - x, dy = at[1] - y, far = dx * dx + dy * dy * 0.25;
        if (far < least) { least = far; best = { s: s, p: p }; }
      });
    });
    return best;
  }

  function hide() {
    tip.hidden = true;
    document.querySelectorAll("circle.here").forEach(function (one) { one.remove(); });
  }

  function show(svg, which) {
    var plot = plotOf(svg), series = plot.series[which.s], point = series.points[which.p], at = place(plot, point);
    svg.which = which;
    document.querySelectorAll("circle.here").forEach(function (one) { one.remove(); });
    var ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    ring.setAttribute("class", "here");
    ring.setAttribute("r", "5.5");
    ring.setAttribute("cx", at[0]);
    ring.setAttribute("cy", at[1]);
    svg.appendChild(ring);
    var name = plot.series.length > 1 ? series.name + " · " : "";
    tip.textContent = name + plot.x_title.split(",")[0] + " " + written(point[0], plot.x_form) + ": " + written(point[1], plot.y_form);
    tip.hidden = false;
    var frame = svg.getBoundingClientRect(), scale = frame.width / svg.viewBox.baseVal.width;
    var left = frame.left + at[0] * scale - tip.offsetWidth / 2, top = frame.top + at[1] * scale - tip.offsetHeight - 12;
    tip.style.left = Math.max(4, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 4)) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }

  function plotUnder(event) {
    return event.target.closest ? event.target.closest("figure.plot > svg") : null;
  }

  document.addEventListener("pointermove", function (event) {
    var svg = plotUnder(event);
    if (!svg) { if (!tip.hidden && !document.activeElement.matches("figure.plot > svg")) hide(); return; }
    var frame = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / frame.width;
    var which = nearest(plotOf(svg), (event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale);
    if (which) show(svg, which);
  });
  document.addEventListener("pointerdown", function (event) {
    if (!plotUnder(event)) hide();
  });
  document.addEventListener("scroll", function () { if (!tip.hidden) hide(); }, { passive: true });
  document.addEventListener("focusout", hide);

  // Arrows: left and right along a series, up and down to another.
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { hide(); return; }
    var svg = plotUnder(event);
    if (!svg || !/^(Arrow|Home|End)/.test(event.key)) return;
    var plot = plotOf(svg), which = svg.which || { s: 0, p: -1 }, s = which.s, p = which.p;
    if (event.key === "ArrowRight") p += 1;
    if (event.key === "ArrowLeft") p -= 1;
    if (event.key === "Home") p = 0;
    if (event.key === "End") p = Infinity;
    if (event.key === "ArrowUp") s = (s + 1) % plot.series.length;
    if (event.key === "ArrowDown") s = (s + plot.series.length - 1) % plot.series.length;
    p = Math.max(0, Math.min(p, plot.series[s].points.length - 1));
    event.preventDefault();
    show(svg, { s: s, p: p });
  });

  function search() {
    var input = document.getElementById("search"), found = document.getElementById("found");
    if (!input) return;
    var words = input.value.toLowerCase().split(/\s+/).filter(Boolean), count = 0, all = 0;
    document.querySelectorAll(".sample").forEach(function (card) {
      var text = card.textContent.toLowerCase();
      var fits = words.every(function (word) { return text.indexOf(word) >= 0; });
      card.hidden = !fits;
      all += 1;
      if (fits) count += 1;
    });
    found.textContent = words.length ? count + " of " + all : "";
  }
  document.addEventListener("input", function (event) {
    if (event.target.id === "search") search();
  });

  // A page that a server gives: it says when the run has gone on, and the content is taken anew.
  var live = document.body.getAttribute("data-live");
  if (live && window.EventSource) {
    new EventSource(live).addEventListener("change", function () {
      fetch(location.pathname).then(function (answer) { return answer.text(); }).then(function (text) {
        var fresh = new DOMParser().parseFromString(text, "text/html");
        var input = document.getElementById("search"), words = input ? input.value : "", focused = document.activeElement === input;
        var closed = [];
        document.querySelectorAll("main details").forEach(function (one, place) { closed[place] = one.open; });
        hide();
        ["header", "main"].forEach(function (name) {
          document.querySelector(name).replaceWith(document.adoptNode(fresh.querySelector(name)));
        });
        document.querySelectorAll("main details").forEach(function (one, place) {
          if (place in closed) one.open = closed[place];
        });
        input = document.getElementById("search");
        if (input) { input.value = words; if (focused) input.focus(); search(); }
      });
    });
  }
})();
