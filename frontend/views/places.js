// Where a command can run, as a field of a form offers it.

import { listDjango, listProjects } from "../app/api.js";

export async function places(token) {
  const [projects, django] = await Promise.all([listProjects(token), listDjango(token)]);
  return { projects, django };
}

const OWN = "local";

// The field; `bodyOfPlace` is what its value means in a request. `chosen` is a target, which may be none of those offered.
export function placeField({ projects, django }, chosen = OWN) {
  const offered = [
    ...groupOf("Projects", projects.map(({ id, name }) => [`project:${id}`, name])),
    ...groupOf("Django projects", django.map(({ target, name }) => [target, name])),
  ];
  const known = [OWN, ...offered.flatMap(([, group]) => group.map(([target]) => target))];
  const other = known.includes(chosen) ? [] : [[chosen, chosen]];
  return { name: "place", label: "Where", type: "select", options: [[OWN, "your own workspace"], ...offered, ...other], value: chosen };
}

const groupOf = (text, options) => (options.length ? [[text, options]] : []);

export const bodyOfPlace = (place) => ({ target: place });

// The name of a target, as a person knows it.
export function targetText(target, { projects, django }) {
  if (target === OWN) return "own workspace";
  const [kind, id] = target.split(/:(.*)/s);
  const known = [...projects, ...django].find((each) => [each.id, each.project_id].includes(id));
  return known ? `${kind} ${known.name}` : target;
}
