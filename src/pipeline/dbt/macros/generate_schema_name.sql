{# A schema is called as dbt_project.yml says: by default dbt would put the profile's own before it. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}
