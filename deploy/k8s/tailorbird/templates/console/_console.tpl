{{/* The web console, and what is refused of it. */}}

{{- define "tailorbird.console" -}}
{{- toYaml (dict "name" "console" "values" .Values.console) -}}
{{- end -}}

{{- define "tailorbird.problems.console" -}}
{{- $problems := list -}}
{{- $console := .Values.console -}}
{{- if $console.enabled -}}
{{- if not $console.hosts -}}
{{- $problems = append $problems "console.hosts: is empty; name what browsers call the console by, like [console.example.com]: it answers to no other name" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.ingress.console) -}}
{{- $problems = append $problems "networkPolicy.ingress.console: names no peer, and console.enabled is for people who come through a gateway; name that: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: gateways}}}]" -}}
{{- end -}}
{{- end -}}
{{- if and $console.route.enabled (not $console.enabled) -}}
{{- $problems = append $problems "console.route.enabled: a route to a console that console.enabled does not make" -}}
{{- end -}}
{{- if and $console.route.enabled (not $console.route.parentRefs) -}}
{{- $problems = append $problems "console.route.parentRefs: names no Gateway; a route without one takes no calls" -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}
